"""What must hold exactly (Meng et al. 2022, section 2.1), and what must not change a result."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from facts import Fact
from models import LanguageModel
from tests.tiny import FAMILIES, build_tiny, tiny_model
from tracing import NoiseLevel, TraceCancelled, TraceConfig, causal_trace, measure_noise, trace_sites
from tracing.corruption import draw_noise
from tracing.types import SITES

FACT = Fact.from_prompt("in the city the Space Needle is", "Space Needle")
LEVEL = NoiseLevel(0.4, "a test")
START = 3  # its subject follows three tokens at least


def configs(samples: int = 2, **changes: int) -> list[TraceConfig]:
    return [TraceConfig(site=site, window=1, samples=samples, **changes) for site in SITES]  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_cells(family: str) -> None:
    results = trace_sites(tiny_model(family), FACT, configs(), level=LEVEL)
    for site, result in results.items():
        low = result.corrupted[:, None]
        assert result.subject_span[0] >= START
        for pos in range(result.subject_span[0]):  # nothing is corrupted there
            assert (result.restored[:, pos] == low).all()
        assert (result.restored[:, :-1, -1] == low).all()  # the last layer's other positions predict nothing
        if site == "resid_post":
            assert (result.restored[:, -1, -1] == np.float32(result.clean)).all()
    # In the residual stream the subject's own state right behind the embedding matters, so the map is not all constant.
    assert np.ptp(results["resid_post"].restored) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_no_noise_restores_everything(family: str) -> None:
    for config in configs():
        silent = TraceConfig(site=config.site, noise=0.0, samples=2)
        result = causal_trace(tiny_model(family), FACT, silent, level=LEVEL)
        assert (result.restored == np.float32(result.clean)).all()
        assert result.total_effect == 0.0


def test_a_model_of_one_layer_has_only_its_last() -> None:
    model = LanguageModel("one layer", "0", *build_tiny("llama", num_hidden_layers=1))
    results = trace_sites(model, FACT, configs(), level=LEVEL)
    assert (results["resid_post"].restored[:, -1, 0] == np.float32(results["resid_post"].clean)).all()
    assert (results["mlp_out"].restored[:, :-1, 0] == results["mlp_out"].corrupted[:, None]).all()
    assert np.isfinite(results["mlp_out"].restored).all()


def test_half_precision_is_traced_and_scored_in_float32() -> None:
    module, tokenizer = build_tiny("gpt2")
    half = LanguageModel("half", "0", module.to(torch.bfloat16), tokenizer)
    result = causal_trace(half, FACT, TraceConfig(samples=2), level=LEVEL)
    exact = causal_trace(tiny_model("gpt2"), FACT, TraceConfig(samples=2), level=LEVEL)
    assert result.engine == "sweep"
    assert result.answer == exact.answer
    np.testing.assert_allclose(result.restored, exact.restored, atol=0.05)
    assert len(set(result.restored.ravel().tolist())) > 8  # not on bfloat16's coarse grid


@pytest.mark.parametrize("site", SITES)
def test_the_batch_size_changes_nothing(site: str) -> None:
    model = tiny_model("gpt_neo")
    whole, *others = [
        causal_trace(model, FACT, TraceConfig(site=site, window=3, samples=3, batch_size=size), level=LEVEL)  # type: ignore[arg-type]
        for size in (1000, 1, 7)
    ]
    for other in others:
        np.testing.assert_allclose(other.restored, whole.restored, atol=1e-6)
        np.testing.assert_allclose(other.corrupted, whole.corrupted, atol=1e-6)


def test_sites_traced_together_equal_sites_traced_alone() -> None:
    model = tiny_model("llama")
    together = trace_sites(model, FACT, configs(), level=LEVEL)
    for config in configs():
        alone = causal_trace(model, FACT, config, level=LEVEL)
        np.testing.assert_array_equal(together[config.site].restored, alone.restored)


def test_positions_asked_for_equal_those_of_the_whole_trace() -> None:
    model = tiny_model("gpt2")
    whole = causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL)
    part = causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL, positions=["last_subject", "last_token", 0])
    last_subject = whole.subject_span[1] - 1
    asked = [*range(whole.subject_span[0]), last_subject, len(whole.tokens) - 1]
    np.testing.assert_allclose(part.restored[:, asked], whole.restored[:, asked], atol=1e-6)
    others = sorted(set(range(len(whole.tokens))) - set(asked))
    assert np.isnan(part.restored[:, others, :-1]).all()
    assert part.peak() == whole.peak()
    with pytest.raises(ValueError, match="was not measured"):
        part.peak(others[0])
    with pytest.raises(ValueError, match="position 99"):
        causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL, positions=[99])


def test_more_samples_refine_fewer() -> None:
    five, two = draw_noise(5, 3, 32, seed=4), draw_noise(2, 3, 32, seed=4)
    assert torch.equal(five[:2], two)
    assert not torch.equal(five, draw_noise(5, 3, 32, seed=5))
    assert abs(float(draw_noise(200, 3, 32, seed=0).std()) - 1) < 0.02
    model = tiny_model("gpt2")
    many, few = (causal_trace(model, FACT, TraceConfig(samples=n), level=LEVEL) for n in (4, 2))
    np.testing.assert_allclose(many.restored[:2], few.restored, atol=1e-6)


def test_the_same_seed_gives_the_same_trace() -> None:
    model, config = tiny_model("opt"), TraceConfig(samples=2, seed=3)
    first, second = (causal_trace(model, FACT, config, level=LEVEL) for _ in range(2))
    np.testing.assert_array_equal(first.restored, second.restored)
    other = causal_trace(model, FACT, TraceConfig(samples=2, seed=4), level=LEVEL)
    assert not np.array_equal(first.corrupted, other.corrupted)


def test_the_noise_is_measured_on_embedding_outputs() -> None:
    model = tiny_model("gemma")  # scales its embeddings
    subjects = ["Space Needle", "Rome", "Rome"]  # duplicates count, as in the paper's code
    ids = [token for subject in subjects for token in model.tokenize(subject, special_tokens=False)]
    level = measure_noise(model, subjects)
    assert level.sigma == pytest.approx(float(model.embedding(ids).std()), rel=1e-5)
    assert level.source == f"the embeddings of 3 subjects ({len(ids)} tokens)"
    whole = measure_noise(model)
    assert whole.sigma == pytest.approx(float(model.embedding(torch.arange(model.d_vocab)).std()), rel=1e-5)
    result = causal_trace(model, FACT, TraceConfig(samples=1, noise=2.0))
    assert result.noise_std == pytest.approx(2 * whole.sigma)
    assert "vocabulary" in result.noise_source
    with pytest.raises(ValueError, match="hold 1 tokens"):
        measure_noise(model, ["x"])


def edited(model: LanguageModel) -> LanguageModel:
    name = model.architecture.key_weight_name(1)
    return model.view({name: model.weight(name) * 1.5})


def test_two_threads_on_a_model_and_its_edited_view_equal_solo_runs() -> None:
    base = tiny_model("gpt_neo")
    view = edited(base)
    config = TraceConfig(samples=2, batch_size=16)
    solo = {"base": causal_trace(base, FACT, config), "view": causal_trace(view, FACT, config)}
    assert not np.array_equal(solo["base"].restored, solo["view"].restored)
    assert solo["base"].revision != solo["view"].revision
    found: dict[str, list[np.ndarray]] = {"base": [], "view": [], "base again": []}

    def work(name: str, model: LanguageModel) -> None:
        for _ in range(4):
            found[name].append(causal_trace(model, FACT, config).restored)

    threads = [threading.Thread(target=work, args=item) for item in zip(found, (base, view, base), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, traces in found.items():
        assert len(traces) == 4
        for restored in traces:
            np.testing.assert_array_equal(restored, solo[name.split()[0]].restored)


def test_tracing_leaves_the_weights_alone() -> None:
    model = tiny_model("phi")
    before = model.weights_digest()
    trace_sites(model, FACT, configs())
    assert model.weights_digest() == before


def test_progress_counts_rows_and_cancelling_takes_effect_within_one_pass() -> None:
    model, config = tiny_model("gpt2"), TraceConfig(samples=2, batch_size=4)
    seen: list[tuple[int, int]] = []
    result = causal_trace(model, FACT, config, progress=lambda done, total: seen.append((done, total)))
    n_traced = len(result.tokens) - result.subject_span[0]
    total = 2 * n_traced * (model.n_layers - 1)
    assert [done for done, _ in seen] == [*range(4, total, 4), total]
    assert {each for _, each in seen} == {total}
    after_two: list[int] = []
    with pytest.raises(TraceCancelled, match=f"after 8 of {total} rows"):
        causal_trace(
            model,
            FACT,
            config,
            progress=lambda done, _: after_two.append(done),
            cancelled=lambda: len(after_two) == 2,
        )
    assert after_two == [4, 8]
    with pytest.raises(TraceCancelled, match="before it began"):
        causal_trace(model, FACT, config, cancelled=lambda: True)


def test_the_answer_is_the_models_own_or_the_given_one() -> None:
    model = tiny_model("qwen2")
    own = causal_trace(model, FACT, TraceConfig(samples=1), level=LEVEL)
    ids = model.encode(FACT.prompt)
    assert own.answer_ids == (int(model.logits(torch.tensor([ids]))[0, -1].argmax()),)
    assert own.answer_is_greedy
    given = Fact.from_prompt(FACT.prompt, FACT.subject, "Rome")
    result = causal_trace(model, given, TraceConfig(samples=1), level=LEVEL)
    assert result.answer == "Rome"
    assert not result.answer_is_greedy
    assert result.predicted == own.predicted
    assert result.tokens == own.tokens


def test_the_occurrence_of_a_repeated_subject_is_the_templates() -> None:
    model = tiny_model("gpt2")
    second = Fact("Rome", "Rome was not {}", "")
    result = causal_trace(model, second, TraceConfig(samples=1), level=LEVEL)
    assert result.subject_span[0] >= 3


def test_what_does_not_fit_is_said() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="window is 5, but tiny gpt2 has 4 layers"):
        causal_trace(model, FACT, TraceConfig(site="mlp_out", window=5))
    with pytest.raises(ValueError, match="at least one TraceConfig"):
        trace_sites(model, FACT, [])
    with pytest.raises(ValueError, match="repeat"):
        trace_sites(model, FACT, [TraceConfig(), TraceConfig(seed=1)])
    with pytest.raises(ValueError, match="differ in noise"):
        trace_sites(model, FACT, [TraceConfig(), TraceConfig(site="mlp_out", seed=1)])
    with pytest.raises(ValueError, match="takes at most 64"):
        causal_trace(model, Fact("Rome", "{} is " + "very " * 100, ""))
