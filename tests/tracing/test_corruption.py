"""Every kind of corruption against its definition; the same seed, the same numbers; what cannot be done is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from facts import Fact
from facts.atlas import Atlas, AtlasFact, Relation, load_atlas
from models import LanguageModel
from tests.tiny import build_tiny, tiny_model
from tracing.config import TraceConfig
from tracing.corruption import Corruption, NoiseLevel, aligned_ids, corrupt, draw_noise, measure_noise
from tracing.counterfactuals import Counterfactual, suggest_counterfactuals
from tracing.engine.question import ask

FACT = Fact.from_prompt("the city of Paris is in", "Paris")
LEVEL = NoiseLevel(0.5, "a test")
MANY = TraceConfig(samples=1000)


def made(model: LanguageModel, config: TraceConfig, level: NoiseLevel = LEVEL, fact: Fact = FACT) -> Corruption:
    question = ask(model, fact)
    subject = question.subject
    clean = model.embedding(question.ids[subject.start : subject.stop])
    return corrupt(model, fact, subject, clean, config, level)


def clean_of(model: LanguageModel, fact: Fact = FACT) -> torch.Tensor:
    question = ask(model, fact)
    return model.embedding(question.ids[question.subject.start : question.subject.stop])


def test_the_papers_noise_is_added_bit_for_bit() -> None:
    model = tiny_model("gpt2")
    found = made(model, TraceConfig(samples=3, seed=4))
    clean = clean_of(model)
    assert torch.equal(found.embeddings, clean + 3.0 * 0.5 * draw_noise(3, len(clean), 32, seed=4))
    assert found.std == 1.5
    assert found.source == "Gaussian noise of 3 x the standard deviation of a test"
    # the numbers themselves, so that no release changes them unseen
    np.testing.assert_allclose(draw_noise(1, 1, 2, seed=0)[0, 0], [1.5409961, -0.2934289], atol=1e-6)


def test_fixed_noise_ignores_what_was_measured() -> None:
    model = tiny_model("gpt2")
    config = TraceConfig(samples=2, corruption="gaussian_fixed", noise=0.1)
    one, other = (made(model, config, NoiseLevel(sigma, "a test")) for sigma in (0.5, 7.0))
    assert torch.equal(one.embeddings, other.embeddings)
    assert torch.equal(one.embeddings, clean_of(model) + 0.1 * draw_noise(2, len(clean_of(model)), 32, seed=0))
    assert one.std == 0.1


def test_uniform_noise_fills_its_range() -> None:
    model = tiny_model("gpt2")
    found = made(model, replace(MANY, corruption="uniform"))
    noise = found.embeddings - clean_of(model)
    assert float(noise.abs().max()) <= 1.5 + 1e-5
    assert float(noise.abs().max()) > 1.49
    assert found.std == pytest.approx(1.5 / 3**0.5)
    assert float(noise.std()) == pytest.approx(found.std, rel=0.02)


def test_multivariate_noise_has_the_mean_and_covariance_of_the_embeddings() -> None:
    model = tiny_model("gemma")  # scales its embeddings
    level = measure_noise(model, ["Space Needle", "Eiffel Tower", "Copenhagen", "Rome"] * 3)
    table = model.embedding(list(level.tokens)).double()
    config = replace(MANY, corruption="multivariate", noise=1.0, additive=False)
    drawn = made(model, config, level).embeddings.double().reshape(-1, 32)
    scale = float(table.std())
    assert float((drawn.mean(0) - table.mean(0)).abs().max()) < 0.15 * scale
    wanted, got = torch.cov(table.T), torch.cov(drawn.T)
    assert float((got - wanted).norm() / wanted.norm()) < 0.1
    off_diagonal = wanted - torch.diag(wanted.diag())
    assert float((got - wanted).norm()) < 0.5 * float(off_diagonal.norm())  # not merely the variances
    twice = made(model, replace(config, noise=2.0), level)
    torch.testing.assert_close(
        twice.embeddings - table.mean(0).float(), 2 * (made(model, config, level).embeddings - table.mean(0).float())
    )


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_fixed", "uniform", "multivariate"])
def test_drawn_kinds_are_seeded_and_refinable_and_may_replace(kind: str) -> None:
    model = tiny_model("gpt2")
    config = TraceConfig(samples=5, corruption=kind)  # type: ignore[arg-type]
    five = made(model, config)
    assert torch.equal(five.embeddings, made(model, config).embeddings)
    assert torch.equal(five.embeddings[:2], made(model, replace(config, samples=2)).embeddings)
    assert not torch.equal(five.embeddings, made(model, replace(config, seed=1)).embeddings)
    assert five.embeddings.dtype == torch.float32
    replaced = made(model, replace(config, additive=False))
    torch.testing.assert_close(replaced.embeddings + clean_of(model), five.embeddings)


def test_another_subject_and_ablations_are_one_sample() -> None:
    model = tiny_model("gpt2")
    other = Fact.from_prompt("the city of Berlin is in", "Berlin")
    assert len(model.encode(other.prompt)) == len(model.encode(FACT.prompt))
    token = made(model, TraceConfig(corruption="token", counterfactual="Berlin"))
    assert torch.equal(token.embeddings, clean_of(model, other)[None])
    assert (token.std, token.source) == (0.0, "the embeddings of 'Berlin'")
    zero = made(model, TraceConfig(corruption="zero"))
    assert torch.equal(zero.embeddings, torch.zeros_like(token.embeddings))
    whole = model.embedding(torch.arange(model.d_vocab)).mean(0)
    mean = made(model, TraceConfig(corruption="mean"))
    torch.testing.assert_close(mean.embeddings[0], whole.expand_as(mean.embeddings[0]))


def test_what_cannot_be_corrupted_is_said_in_one_sentence() -> None:
    model = tiny_model("gpt2")

    def said(config: TraceConfig, of: LanguageModel = model) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked by the caller
            made(of, config)
        assert str(error.value).count("\n") == 0
        return str(error.value)

    assert "noise is 0 (standard deviation 0) and leaves" in said(TraceConfig(noise=0.0))
    half = LanguageModel("half", "0", build_tiny("gpt2")[0].to(torch.bfloat16), model.tokenizer)
    assert "leaves the subject's embeddings" in said(TraceConfig(noise=1e-9), half)
    longer = TraceConfig(corruption="token", counterfactual="Copenhagen")
    assert "'Copenhagen' takes 5 tokens where the subject 'Paris' takes 2" in said(longer)
    assert "is the subject itself" in said(TraceConfig(corruption="token", counterfactual="Paris"))


def test_tokens_around_the_subject_must_stay() -> None:
    model = tiny_model("gpt2")
    subject = ask(model, FACT).subject
    ids, others = model.encode(FACT.prompt), aligned_ids(model, FACT, subject, "Berlin")
    assert [pos for pos in range(len(ids)) if ids[pos] != others[pos]] == [5, 6]  # " " is shared
    with pytest.raises(ValueError, match="'Berlin' changes tokens around the subject 'Paris'"):
        aligned_ids(model, FACT, range(subject.start, subject.stop - 1), "Berlin")


def test_counterfactuals_align_and_answer_differently() -> None:
    model = tiny_model("gpt2")
    cities = ("Paris", "France"), ("Berlin", "Germany"), ("Parlin", "Oz"), ("Rome", "Italy"), ("Berlis", "France")
    relation = Relation("in", "city", "country", "", "", False, "", ("the city of {} is in",), ())
    rows = tuple(AtlasFact("in", *city, False, False) for city in cities)
    atlas = Atlas(rows, {"in": relation}, {}, {})
    found = suggest_counterfactuals(model, FACT, atlas=atlas)
    # Par|is: Rome is one token and Ber|lis has the same answer; Ber|lin shares no token with it, Par|lin one
    assert found == (Counterfactual("Berlin", "Germany", 0), Counterfactual("Parlin", "Oz", 1))
    assert suggest_counterfactuals(model, FACT, atlas=atlas, limit=1) == found[:1]
    named = Fact("Paris", "so {} is in", "", "in")  # not a template of the atlas, but its relation is given
    assert {one.subject for one in suggest_counterfactuals(model, named, atlas=atlas)} == {"Parlin", "Berlin"}
    with pytest.raises(ValueError, match="the atlas holds no relation for the prompt 'so x is in'"):
        suggest_counterfactuals(model, Fact("x", "so {} is in", ""), atlas=atlas)


def test_every_suggestion_of_the_bundled_atlas_can_corrupt() -> None:
    model = tiny_model("gpt2")
    fact = load_atlas().as_fact(load_atlas().facts[0])
    found = suggest_counterfactuals(model, fact, limit=5)
    assert found
    for one in found:
        made(model, TraceConfig(corruption="token", counterfactual=one.subject), fact=fact)
