"""Attribution patching at the resolution of single neurons: an estimate for each, exact values on demand.

A neuron is an entry of what an MLP's down projection reads (`mlp_key`).  As in `tracing.lenses.attribution`, with the
same known false negatives,

    estimate(t, l, i) = (a_source - a_base) d log P(answer) / d a      at the base run, for activation a of neuron i

in nats.  There are tens of thousands of neurons, so only the mean over samples and its spread are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, run
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel
from tracing.lenses.attribution import SAMPLES_AT_ONCE, products
from tracing.lenses.pair import Key, PairResult, make_pair


@dataclass(frozen=True, eq=False)
class NeuronAttribution(PairResult):
    """Estimated effects of single neurons, in nats of the answer's log-probability.

    Only the config's corruption and direction are used.
    """

    KIND: ClassVar[str] = "engram-neurons-1"

    layers: tuple[int, ...]
    estimate: NDArray[np.float32]
    """[pos, layer, neuron], mean over samples; the layers are those of `layers`."""
    estimate_sd: NDArray[np.float32]
    """[pos, layer, neuron], standard deviation over samples; NaN for one sample."""

    def top(self, count: int = 10) -> list[tuple[int, int, int]]:
        """The neurons with the largest estimates by size, as (position, layer, neuron)."""
        order = np.argsort(-np.abs(self.estimate), axis=None, kind="stable")[:count]
        cells = zip(*(axis.tolist() for axis in np.unravel_index(order, self.estimate.shape)), strict=True)
        return [(pos, self.layers[index], neuron) for pos, index, neuron in cells]

    def at(self, pos: int, layer: int, neuron: int) -> float:
        """The estimate of one neuron at one position."""
        return float(self.estimate[pos, self.layers.index(layer), neuron])

    def to_frame(self, count: int = 1000) -> pd.DataFrame:
        """The `count` largest, one a row: position, token, layer, neuron, estimate, estimate_sd."""
        rows = []
        for pos, layer, neuron in self.top(count):
            sd = float(self.estimate_sd[pos, self.layers.index(layer), neuron])
            rows.append((pos, self.tokens[pos], layer, neuron, self.at(pos, layer, neuron), sd))
        return pd.DataFrame(rows, columns=["position", "token", "layer", "neuron", "estimate", "estimate_sd"])


def attribute_neurons(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    layers: Sequence[int] | None = None,
    level: NoiseLevel | None = None,
    watch: Watch = UNWATCHED,
) -> NeuronAttribution:
    """Estimate the effect of every neuron at every token of the prompt.

    Args:
        config: its corruption, samples and direction; a neuron has no site or window.
        layers: by default all.
        watch: told (samples done, samples in all).

    Raises:
        Cancelled: when `watch` said so, at most one pass later.
        ValueError: if a layer does not exist, and as `causal_trace` for what does not fit.
    """
    config = config or TraceConfig()
    chosen = tuple(range(model.n_layers) if layers is None else layers)
    pair = make_pair(model, fact, config, level)
    keys: list[Key] = [("mlp_key", layer) for layer in chosen]
    parts: dict[Key, list[Tensor]] = {key: [] for key in keys}
    for start in range(0, pair.n_samples, SAMPLES_AT_ONCE):
        for key, estimates in products(pair, keys, slice(start, start + SAMPLES_AT_ONCE)).items():
            parts[key].append(estimates[:, : pair.question.n_prompt])
        watch.step(min(start + SAMPLES_AT_ONCE, pair.n_samples), pair.n_samples)
    each = torch.stack([torch.cat(parts[key]) for key in keys], 2)
    spread = each.std(0) if len(each) > 1 else torch.full_like(each[0], torch.nan)
    return NeuronAttribution(
        **pair.described(fact, config),
        layers=chosen,
        estimate=each.mean(0).numpy(),
        estimate_sd=spread.numpy(),
    )


def verify_neurons(
    model: LanguageModel,
    fact: Fact,
    result: NeuronAttribution,
    top_k: int = 10,
    *,
    level: NoiseLevel | None = None,
) -> pd.DataFrame:
    """The exact effects of the neurons with the largest estimates: one forward each, with that one entry replaced.

    Returns:
        `NeuronAttribution.to_frame` of those, with a column `exact` in place of the spread: nats, mean over samples.
    """
    pair = make_pair(model, fact, result.config, level)
    everything = slice(None)
    ids = pair.ids.expand(pair.n_samples, -1)
    before = pair.answer(run(model, ids, patches=pair.base(everything)).logits)
    exact = []
    for pos, layer, neuron in result.top(top_k):
        key: Key = ("mlp_key", layer)
        _, source = pair.states([key], everything)

        def write(state: Tensor, pos: int = pos, neuron: int = neuron, new: Tensor = source[key]) -> Tensor:
            state[:, pos, neuron] = new[:, pos, neuron].to(state)
            return state

        after = pair.answer(run(model, ids, patches=pair.base(everything) | {key: write}).logits)
        change = float((after - before).mean())
        exact.append(-change if pair.noising else change)
    return result.to_frame(top_k).drop(columns="estimate_sd").assign(exact=exact)
