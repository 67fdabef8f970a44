"""Evaluation of tiny random models: agreement with the slow oracle, and independence of the batch."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import torch

from facts import EditRequest, Fact, Probe
from metrics import EditReport, Reading, evaluate
from models import LanguageModel
from tests.oracle import scores as oracle
from tests.tiny import tiny_model

FAMILIES = ("gpt2", "gpt_neo", "llama", "mistral")
TEXTS = ["Rome is the capital of Italy.", "Marie Curie was born in Warsaw.", "Toyota is headquartered in Japan."]
STEPS = 6


def _first_word(model: LanguageModel, prompt: str) -> str:
    """A word the model does say, so that random models know something."""
    words = model.generate([prompt], STEPS)[0].split()
    plain = [word for word in words if word.isascii() and word.isalnum()]
    return words[0] if plain and words[0] == plain[0] else "Paris"


def _edited(model: LanguageModel, size: float = 0.6) -> LanguageModel:
    """Any change of weights will do: metrics do not ask how it was made."""
    name = model.architecture.key_weight_name(2)
    weight = model.weight(name)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model.view({name: weight + size * noise})


@cache
def _case(family: str) -> tuple[LanguageModel, LanguageModel, EditRequest]:
    base = tiny_model(family)
    edited = _edited(base)
    fact = Fact("Space Needle", "The {} is located in the city of", "Seattle")
    new = _first_word(edited, fact.prompt)
    if new == fact.target_true:
        new = "Rome"
    neighbors = ["The Eiffel Tower is in", "The Colosseum is in", "Marie Curie was born in", "Toyota is in"]
    alias = "The Needle is located in"
    probes = (
        Probe("paraphrase", "The Space Needle is in", new),
        Probe("paraphrase", "In which city is the Space Needle? It is in", new),
        *(Probe("neighborhood", prompt, _first_word(base, prompt)) for prompt in neighbors),
        Probe("same_subject", "The Space Needle is a", _first_word(base, "The Space Needle is a")),
        Probe("alias", alias, new, ((alias, _first_word(base, alias)),)),
    )
    return base, edited, EditRequest(fact, new, probes)


@cache
def _report(family: str) -> EditReport:
    return evaluate(*_case(family), guard_texts=TEXTS, max_new_tokens=STEPS, distractors=["It rained."])


@pytest.mark.parametrize("family", FAMILIES)
def test_summary_agrees_with_the_oracle(family: str) -> None:
    base, edited, request = _case(family)
    report = _report(family)
    for name, (before, after) in oracle.summary(base, edited, request, STEPS).items():
        score = report.score(name)
        assert (score.before, score.value) == pytest.approx((before, after)), name
    guard = report.score("locality.perplexity")
    expected = (oracle.perplexity(base, TEXTS), oracle.perplexity(edited, TEXTS))
    assert (guard.before, guard.value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_agrees_with_the_oracle(family: str) -> None:
    base, edited, _ = _case(family)
    for row in _report(family).rows:
        for model, reading in ((base, row.before), (edited, row.after)):
            assert reading is not None
            # Half a character at the oracle's end is a whole one where the budget is larger.
            assert reading.continuation.startswith(oracle.greedy(model, row.prompt, STEPS).rstrip("\ufffd"))
            expected = oracle.forced(model, row.prompt, row.answer)
            assert reading.p_answer == pytest.approx(expected.probability, rel=1e-4, abs=1e-9)
            assert reading.nll_answer == pytest.approx(expected.nll, rel=1e-5)
            assert reading.token_accuracy == expected.token_accuracy
            assert reading.rank == expected.rank
        if row.metric == "locality":
            assert row.kl == pytest.approx(oracle.divergence(base, edited, row.prompt), rel=1e-4, abs=1e-7)


def _same(first: Reading, second: Reading) -> None:
    assert first.continuation == second.continuation
    assert first.match == second.match
    assert first.rank == second.rank
    assert first.token_accuracy == second.token_accuracy
    assert first.p_answer == pytest.approx(second.p_answer, abs=1e-6)
    assert first.nll_answer == pytest.approx(second.nll_answer, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompts_score_does_not_depend_on_its_batch(family: str) -> None:
    base, edited, request = _case(family)
    whole = {(row.kind, row.prompt): row for row in _report(family).rows}
    shuffled = tuple(random.Random(0).sample(request.probes, len(request.probes)))
    subsets = [shuffled, *((probe,) for probe in request.probes)]
    for probes in subsets:
        # With one probe its prefix is the same, because there is one distractor.
        report = evaluate(
            base, edited, replace(request, probes=probes), max_new_tokens=STEPS, distractors=["It rained."]
        )
        for row in report.rows:
            known = whole[row.kind, row.prompt]
            assert row.counted == known.counted
            for ours, theirs in ((row.before, known.before), (row.after, known.after)):
                assert ours is not None
                assert theirs is not None
                _same(ours, theirs)


def test_evaluating_leaves_both_models_as_they_were() -> None:
    base, edited, request = _case("gpt2")
    digests = base.weights_digest(), edited.weights_digest()
    first = _report("gpt2")
    again = evaluate(base, edited, request, guard_texts=TEXTS, max_new_tokens=STEPS, distractors=["It rained."])
    assert (base.weights_digest(), edited.weights_digest()) == digests
    assert again.rows == first.rows
    assert [score for score in again.scores if score.metric != "efficiency"] == [
        score for score in first.scores if score.metric != "efficiency"
    ]


def test_changed_weights_are_counted_by_comparing() -> None:
    base, edited, _ = _case("gpt2")
    report = _report("gpt2")
    weight = base.weight(base.architecture.key_weight_name(2))
    difference = edited.weight(base.architecture.key_weight_name(2)) - weight
    assert report.efficiency.parameters_changed == weight.numel()
    assert report.efficiency.parameters_total == sum(p.numel() for p in base.module.parameters())
    assert report.efficiency.delta_norm == pytest.approx(float(difference.norm()), rel=1e-5)
