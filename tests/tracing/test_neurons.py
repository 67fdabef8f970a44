"""Single neurons: the estimates add up to the MLP's own, are right to first order, and can be computed exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facts import Fact
from facts.watch import Cancelled, Watch
from tests.oracle.plain_hooks import hooked
from tests.tiny import tiny_model
from tests.tracing.agreement import LEVEL
from tracing import TraceConfig, attribute_neurons, attribution_patching
from tracing.lenses.attribution import AttributionResult
from tracing.lenses.neurons import NeuronAttribution, verify_neurons
from tracing.lenses.pair import answer_log_prob, make_pair

FACT = Fact.from_prompt("the Space Needle is in", "Space Needle")
CONFIG = TraceConfig(samples=2)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox"])
def test_neurons_of_a_layer_add_up_to_its_mlp(family: str, direction: str) -> None:
    """The down projection is linear, so its output's estimate is the sum over its inputs'."""
    model, config = tiny_model(family), replace(CONFIG, direction=direction)  # type: ignore[arg-type]
    neurons = attribute_neurons(model, FACT, config, level=LEVEL)
    whole: AttributionResult = attribution_patching(model, FACT, config, sites=["mlp_out"], level=LEVEL)["mlp_out"]
    assert neurons.estimate.shape[:2] == whole.estimate.shape
    np.testing.assert_allclose(neurons.estimate.sum(-1), whole.estimate, atol=1e-4)
    assert np.abs(neurons.estimate).max() > 1e-5


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_exact_values_are_forwards_with_one_entry_replaced(direction: str) -> None:
    model, config = tiny_model("gpt_neo"), replace(CONFIG, samples=1, direction=direction)  # type: ignore[arg-type]
    result = attribute_neurons(model, FACT, config, level=LEVEL)
    found = verify_neurons(model, FACT, result, 3, level=LEVEL)
    assert list(found["estimate"]) == [pytest.approx(result.at(*cell)) for cell in result.top(3)]
    pair = make_pair(model, FACT, config, LEVEL)
    subject, noised = pair.question.subject, pair.corruption.embeddings

    def corrupt(state: torch.Tensor) -> torch.Tensor:
        state[:, subject.start : subject.stop] = noised
        return state

    for row, (pos, layer, neuron) in zip(found.itertuples(), result.top(3), strict=True):
        key = ("mlp_key", layer)
        clean, of_clean = hooked(model, pair.ids, [key], {})
        corrupted, of_corrupted = hooked(model, pair.ids, [key], {("embed", 0): corrupt})
        noising = direction == "noising"
        new = (of_corrupted if noising else of_clean)[key]

        def write(state: torch.Tensor, new: torch.Tensor = new, at: tuple[int, int] = (pos, neuron)) -> torch.Tensor:
            state[:, at[0], at[1]] = new[:, at[0], at[1]]
            return state

        patched, _ = hooked(model, pair.ids, [], {key: write} | ({} if noising else {("embed", 0): corrupt}))
        before = answer_log_prob(pair.question, clean if noising else corrupted)
        change = float(answer_log_prob(pair.question, patched) - before)
        assert row.exact == pytest.approx(-change if noising else change, abs=1e-5)
        assert (row.position, row.layer, row.neuron) == (pos, layer, neuron)


def test_some_layers_are_a_part_of_all_and_a_file(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    told: list[tuple[int, int]] = []
    whole = attribute_neurons(model, FACT, CONFIG, level=LEVEL, watch=Watch(lambda *at: told.append(at[:2])))
    part = attribute_neurons(model, FACT, CONFIG, layers=[1], level=LEVEL)
    assert told == [(2, 2)]
    np.testing.assert_allclose(part.estimate[:, 0], whole.estimate[:, 1], atol=1e-6)
    pos, layer, neuron = part.top(1)[0]
    assert layer == 1
    assert part.at(pos, layer, neuron) == part.estimate[pos, 0, neuron]
    assert np.isnan(attribute_neurons(model, FACT, TraceConfig(samples=1), layers=[1], level=LEVEL).estimate_sd).all()
    frame = whole.to_frame(20)
    assert len(frame) == 20
    assert frame["estimate"].abs().is_monotonic_decreasing
    whole.save(tmp_path / "neurons.npz")
    again = NeuronAttribution.load(tmp_path / "neurons.npz")
    np.testing.assert_array_equal(again.estimate, whole.estimate)
    assert (again.layers, again.config, again.tokens) == (whole.layers, whole.config, whole.tokens)
    with pytest.raises(Cancelled):
        attribute_neurons(model, FACT, CONFIG, level=LEVEL, watch=Watch(cancelled=lambda: True))
    with pytest.raises(ValueError, match="layer 99 is out of range"):
        attribute_neurons(model, FACT, CONFIG, layers=[99], level=LEVEL)
