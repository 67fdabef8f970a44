"""Attribution patching: every cell of a trace estimated from one forward and one backward pass.

Nanda 2023 (neelnanda.io, "Attribution patching"); Kramár et al. 2024 (arXiv:2403.00745).  The effect of putting the
source run's state in the base run's place is approximated by the first term of its Taylor series:

    estimate(t, l) = (h_source - h_base) . d log P(answer) / d h      at the base run

with the corrupted run as base and the clean one as source (denoising), or the reverse (noising, with the sign turned,
since an effect there is what corrupting takes away).  It is an **estimate**, in nats of log-probability, for ranking
cells where exact maps take too long.  Known false negatives (same paper): where attention is saturated, the
gradient through its softmax is close to zero though the exact effect is large; and where a cell's direct and indirect
effects have opposite signs, their estimates cancel.  `verify` computes the exact effects of the cells with the largest
estimates; it does not find cells that the estimate missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from tracing.engine.tracer import causal_trace
from tracing.lenses.pair import Key, Pair, PairResult, make_pair
from tracing.sites import TraceSite

DEFAULT_SITES: tuple[TraceSite, ...] = ("resid_post", "mlp_out", "attn_out")
SAMPLES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class AttributionResult(PairResult):
    """Estimated effects of every cell of one site, in nats of the answer's log-probability."""

    KIND: ClassVar[str] = "engram-attribution-1"

    clean_log_prob: float
    corrupted_log_prob: NDArray[np.float32]
    """[sample]"""
    estimates: NDArray[np.float32]
    """[sample, pos, layer], or [sample, pos, layer, head] for the site attn_heads."""

    @property
    def estimate(self) -> NDArray[np.float32]:
        """[pos, layer] or [pos, layer, head], mean over samples: an estimate, not an effect."""
        return self.estimates.mean(axis=0, dtype=np.float64).astype(np.float32)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.estimates.shape[2])

    def top(self, count: int = 10) -> list[tuple[int, ...]]:
        """The cells with the largest estimates by size, as (pos, layer) or (pos, layer, head)."""
        order = np.argsort(-np.abs(self.estimate), axis=None, kind="stable")[:count]
        return [tuple(int(index) for index in np.unravel_index(flat, self.estimate.shape)) for flat in order]

    def to_frame(self) -> pd.DataFrame:
        """One row per cell: position, token, layer, (head), site, estimate, estimate_sd over samples."""
        cells = [axis.ravel() for axis in np.indices(self.estimate.shape)]
        sd = self.estimates.std(axis=0, ddof=1) if len(self.estimates) > 1 else np.full(self.estimate.shape, np.nan)
        heads = {"head": cells[2]} if len(cells) == 3 else {}
        columns = {"position": cells[0], "token": [self.tokens[pos] for pos in cells[0]], "layer": cells[1], **heads}
        values = {"site": self.config.site, "estimate": self.estimate.ravel(), "estimate_sd": sd.ravel()}
        return pd.DataFrame(columns | values)


def attribution_patching(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    sites: Sequence[TraceSite] | None = None,
    level: NoiseLevel | None = None,
    watch: Watch = UNWATCHED,
) -> dict[TraceSite, AttributionResult]:
    """Estimate the map of every site from the same passes.

    Args:
        config: as for `causal_trace`.  A window's estimate is the sum over its layers, which is right to first order
            for what modules add to the residual stream.
        sites: by default states, MLP and attention; "attn_heads" costs nothing more.
        watch: told (samples done, samples in all).

    Raises:
        Cancelled: when `watch` said so, at most one pass later.
        ValueError: for a severed module or a window of block outputs, which have no such estimate; and as
            `causal_trace` for what does not fit.
    """
    config = config or TraceConfig()
    chosen = tuple(DEFAULT_SITES if sites is None else sites)
    if config.severed is not None:
        raise ValueError(f"severed is {config.severed!r}; an estimate has no severed modules, trace them exactly")
    if config.window > 1 and "resid_post" in chosen:
        raise ValueError(f"window is {config.window}; estimates of block outputs do not add up, take a window of 1")
    if config.window > model.n_layers:
        raise ValueError(f"window is {config.window}, but {model.name} has {model.n_layers} layers; choose 1 to that")
    configs = {site: replace(config, site=site) for site in chosen}
    pair = make_pair(model, fact, config, level)
    keys: list[Key] = [(site, layer) for site in chosen for layer in range(model.n_layers)]
    parts: dict[Key, list[Tensor]] = {key: [] for key in keys}
    for start in range(0, pair.n_samples, SAMPLES_AT_ONCE):
        samples = slice(start, start + SAMPLES_AT_ONCE)
        for key, estimates in products(pair, keys, samples).items():
            parts[key].append(estimates[:, : pair.question.n_prompt])
        watch.step(min(start + SAMPLES_AT_ONCE, pair.n_samples), pair.n_samples)
    clean, corrupted = pair.log_probs()
    return {
        site: AttributionResult(
            **pair.described(fact, configs[site]),
            clean_log_prob=clean,
            corrupted_log_prob=corrupted.numpy(),
            estimates=_estimates(model, configs[site], parts),
        )
        for site in chosen
    }


def verify(
    model: LanguageModel,
    fact: Fact,
    result: AttributionResult,
    top_k: int = 10,
    *,
    level: NoiseLevel | None = None,
    watch: Watch = UNWATCHED,
) -> pd.DataFrame:
    """The exact effects of the cells with the largest estimates, by `causal_trace` at their positions.

    Returns:
        One row per cell, the largest estimate first: position, token, layer, (head), estimate and exact, both in nats,
        mean over samples.
    """
    cells = result.top(top_k)
    positions = sorted({pos for pos, *_ in cells})
    trace = causal_trace(model, fact, result.config, level=level, positions=positions, watch=watch)
    exact = trace.by("log_probability").indirect_effect
    frame = result.to_frame().drop(columns=["site", "estimate_sd"])
    rows = [int(np.ravel_multi_index(cell, result.estimate.shape)) for cell in cells]
    return frame.iloc[rows].assign(exact=[float(exact[cell]) for cell in cells]).reset_index(drop=True)


def products(pair: Pair, keys: Sequence[Key], samples: slice) -> dict[Key, Tensor]:
    """(h_source - h_base) * gradient at the base run, [sample, pos, d] by site and layer; for noising its negative."""
    base, source = pair.states(keys, samples)
    leaves = {key: torch.zeros_like(state, requires_grad=True) for key, state in base.items()}

    def add(key: Key) -> Callable[[Tensor], Tensor]:
        return lambda state: state + leaves[key]

    ids = pair.ids.expand(len(next(iter(base.values()))), -1)
    patches = pair.base(samples) | {key: add(key) for key in keys}
    log_prob = pair.answer(run(pair.model, ids, patches=patches, grad=True).logits)
    gradients = torch.autograd.grad(log_prob.sum(), [leaves[key] for key in keys])
    sign = -1 if pair.noising else 1
    return {
        key: sign * ((source[key].float() - base[key].float()) * gradient.float()).cpu()
        for key, gradient in zip(keys, gradients, strict=True)
    }


def _estimates(model: LanguageModel, config: TraceConfig, parts: dict[Key, list[Tensor]]) -> NDArray[np.float32]:
    """[sample, pos, layer] or [sample, pos, layer, head]: products summed over d, and over a window's layers."""
    layers = []
    for layer in range(model.n_layers):
        products = torch.cat(parts[config.site, layer])
        if config.site == "attn_heads":
            products = products.unflatten(-1, (model.n_heads, -1))
        layers.append(products.sum(-1))
    windows = [config.layers_of(layer, model.n_layers) for layer in range(model.n_layers)]
    summed = [torch.stack([layers[inside] for inside in window]).sum(0) for window in windows]
    return torch.stack(summed, 2).numpy()
