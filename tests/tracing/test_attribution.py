"""Attribution patching: the derivative of the exact patch on every family, and close to it for small noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from facts import Fact
from facts.watch import Cancelled, Watch
from models import run
from tests.tiny import FAMILIES, HYBRIDS, tiny_model
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel
from tracing.engine.tracer import causal_trace
from tracing.lenses.attribution import AttributionResult, attribution_patching, verify
from tracing.lenses.pair import Key, Pair, make_pair
from tracing.sites import TraceSite

FACT = Fact.from_prompt("the city of Paris is in", "Paris", "Paris France")
LEVEL = NoiseLevel(0.4, "a test")
SITES: tuple[TraceSite, ...] = ("resid_post", "mlp_out", "attn_out", "attn_heads")
STEP = 2e-3


def moved(pair: Pair, key: Key, pos: int, base: Tensor, source: Tensor, step: float) -> float:
    """The answer's log-probability with one state moved from the base run's a step towards the source run's."""

    def patch(state: Tensor) -> Tensor:
        state[:, pos] = base[:, pos] + step * (source[:, pos] - base[:, pos])
        return state

    patches = pair.base(slice(None)) | {key: patch}
    return float(pair.answer(run(pair.model, pair.ids, patches=patches).logits)[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_estimates_are_derivatives_of_the_exact_patch(family: str, direction: str) -> None:
    model = tiny_model(family)
    config = TraceConfig(samples=1, direction=direction)  # type: ignore[arg-type]
    sites = SITES[:3] if family in HYBRIDS else SITES
    results = attribution_patching(model, FACT, config, sites=sites, level=LEVEL)
    pair = make_pair(model, FACT, config, LEVEL)
    for site, layer, back in (("resid_post", 1, 1), ("mlp_out", 2, 1), ("attn_out", 0, 2), ("attn_heads", 1, 2))[
        : len(sites)
    ]:
        key: Key = (site, layer)  # type: ignore[assignment]
        pos = pair.question.n_prompt - back
        base, source = (state[key] for state in pair.states([key], slice(None)))

        slope = (moved(pair, key, pos, base, source, STEP) - moved(pair, key, pos, base, source, -STEP)) / (2 * STEP)
        slope = -slope if direction == "noising" else slope  # what corrupting takes away
        estimate = results[site].estimate[pos, layer].sum()  # type: ignore[index]
        assert estimate == pytest.approx(slope, abs=3e-3 + 0.01 * abs(slope))
    if family in HYBRIDS:
        return
    whole, heads = results["attn_out"].estimate, results["attn_heads"].estimate
    assert heads.shape == (*whole.shape, model.n_heads)
    if not model.architecture.post_norm:  # what the heads write is then what attention writes
        np.testing.assert_allclose(heads.sum(-1), whole, atol=1e-3)


def test_nothing_was_corrupted_before_the_subject() -> None:
    model = tiny_model("gpt2")
    for result in attribution_patching(model, FACT, TraceConfig(samples=2), level=LEVEL).values():
        assert (result.estimate[: result.subject_span[0]] == 0).all()
        assert (result.estimate[: len(result.tokens) - 1, -1] == 0).all()  # the last layer's other positions
        assert np.abs(result.estimate).max() > 1e-3


@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_estimates_come_close_to_exact_effects_of_a_small_corruption(site: TraceSite) -> None:
    model = tiny_model("gpt_neo")
    config = TraceConfig(site=site, samples=2, noise=0.01)
    result = attribution_patching(model, FACT, config, sites=[site], level=LEVEL)[site]
    trace = causal_trace(model, FACT, config, level=LEVEL)
    exact = (np.log(trace.restored) - np.log(trace.corrupted)[:, None, None]).mean(0)
    size = np.abs(exact).max()
    assert size > 1e-3
    np.testing.assert_allclose(result.estimate, exact, atol=0.15 * size)
    assert result.clean_log_prob == pytest.approx(np.log(trace.clean), abs=1e-5)
    np.testing.assert_allclose(result.corrupted_log_prob, np.log(trace.corrupted), atol=1e-5)


def test_the_largest_estimates_are_verified_exactly() -> None:
    model = tiny_model("llama")
    config = TraceConfig(samples=2)
    result = attribution_patching(model, FACT, config, sites=["resid_post"], level=LEVEL)["resid_post"]
    frame = verify(model, FACT, result, 4, level=LEVEL)
    assert len(frame) == 4
    sizes = frame["estimate"].abs().to_numpy()
    assert (sizes[:-1] >= sizes[1:]).all()
    assert sizes[0] == np.abs(result.estimate).max()
    trace = causal_trace(model, FACT, config, level=LEVEL)
    for _, row in frame.iterrows():
        cell = trace.restored[:, row["position"], row["layer"]]
        assert row["exact"] == pytest.approx(float(np.mean(np.log(cell) - np.log(trace.corrupted))), abs=1e-4)


def test_a_windows_estimate_is_the_sum_of_its_layers() -> None:
    model = tiny_model("gpt2")
    one, three = (
        attribution_patching(model, FACT, TraceConfig(samples=2, window=window), sites=["mlp_out"], level=LEVEL)
        for window in (1, 3)
    )
    single, summed = one["mlp_out"].estimate, three["mlp_out"].estimate
    np.testing.assert_allclose(summed[:, 1], single[:, :3].sum(1), atol=1e-5)
    np.testing.assert_allclose(summed[:, 0], single[:, :2].sum(1), atol=1e-5)


def test_an_estimate_is_a_table_and_a_file(tmp_path: Path) -> None:
    results = attribution_patching(tiny_model("gpt2"), FACT, TraceConfig(samples=2), sites=SITES, level=LEVEL)
    heads = results["attn_heads"]
    frame = heads.to_frame()
    assert len(frame) == heads.estimate.size
    assert "effect" not in frame  # an estimate is never called an effect
    row = frame[(frame["position"] == 6) & (frame["layer"] == 2) & (frame["head"] == 1)].iloc[0]
    assert row["estimate"] == heads.estimate[6, 2, 1]
    heads.save(tmp_path / "heads.npz")
    again = AttributionResult.load(tmp_path / "heads.npz")
    assert again.to_json() == heads.to_json()
    assert again.config == heads.config


def test_what_has_no_estimate_is_said() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="an estimate has no severed modules"):
        attribution_patching(model, FACT, TraceConfig(severed="mlp_out"), level=LEVEL)
    with pytest.raises(ValueError, match="estimates of block outputs do not add up"):
        attribution_patching(model, FACT, TraceConfig(window=3), level=LEVEL)
    with pytest.raises(Cancelled):
        attribution_patching(model, FACT, level=LEVEL, watch=Watch(cancelled=lambda: True))
