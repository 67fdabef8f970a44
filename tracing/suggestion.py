"""The layer that a trace suggests for an edit, its largest effect, and whether it shows an early site.

The largest of many cells is large by selection, even if nothing has an effect.  So the intervals here are corrected for
all compared cells (Bonferroni): Student's t over paired samples, 95 % for all cells together.  The dots of a map are
not corrected, they are of one cell each.  A layer is suggested only if

    the corruption took something away: the 95 % interval of the total effect lies above 0,
    the corrected interval of the largest effect at the token lies above 0,
    so does the interval of its excess over the token's mean over layers (in a flat row the largest cell is arbitrary),
    it is at least a twentieth of the total effect (with paired samples even a negligible effect differs from 0).

It is only a suggestion: the layer that a trace finds says little about where an edit works best (Hase et al. 2023,
arXiv:2301.04213).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracing.config import TraceConfig
from tracing.effects import TraceEffects
from tracing.measures import LOWER_IS_BETTER
from tracing.sites import SITE_NAMES
from tracing.statistics import CONFIDENCE, FEWEST, interval
from tracing.tokens import token_label

SMALLEST_EFFECT = 1e-6
"""An effect below is rounding, as a difference of probabilities."""
SMALLEST_SHARE = 0.05
"""Least share of the total effect for a layer to stand out."""
ENOUGH_SAMPLES = 10
MODELS_DIFFER = (
    "Models differ: Meng et al. (2022, arXiv:2202.05262) found an early site in GPT-2 XL, while in Qwen-based models "
    "early attention contributes more than early MLPs (Choe et al. 2025, arXiv:2509.08778)"
)


@dataclass(frozen=True)
class Cell:
    """The largest effect among the cells that were compared."""

    token: str
    position: int
    layer: int
    effect: float
    """Mean over samples, in units of the trace's measure."""
    low: float
    high: float
    """95 % interval, corrected for all cells compared; NaN for one sample."""
    compared: int
    """Number of cells compared."""
    head: int | None = None
    """Only in a trace of heads."""

    def __str__(self) -> str:
        where = f"layer {self.layer}" + ("" if self.head is None else f" head {self.head}")
        return f"{self.effect:.3f} at {token_label(self.token)}, {where}{self.interval}"

    @property
    def interval(self) -> str:
        """The interval in words, with a leading space; empty without one."""
        if math.isnan(self.low):
            return ""
        return f" (95 % CI {self.low:.3f} to {self.high:.3f}, corrected for {self.compared} cells)"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN is None, and the head is left out where there is none."""
        values = {name: value for name, value in asdict(self).items() if name != "head" or value is not None}
        return {name: None if value != value else value for name, value in values.items()}


@dataclass(frozen=True)
class Suggestion:
    """A layer to begin editing at, at one token; or none, and why."""

    layer: int | None
    reason: str
    """One or two sentences: the numbers behind it, or what is missing and what to do."""
    cell: Cell | None
    """The largest effect at that token; None where it was not measured or no layer can be edited."""
    elsewhere: Cell | None = None
    """If no layer is suggested: the largest effect that stands out at another token of the subject."""
    undecided: bool = False
    """If no layer is suggested: one would stand out by its mean, and only the samples are too few to say so."""


@dataclass(frozen=True)
class Best:
    """The largest mean of a row of cells."""

    index: int
    effect: float
    low: float
    high: float
    """95 % interval, corrected for all cells of the row."""
    mean: float
    """Of the row."""
    stands_out: bool
    """Whether the intervals of the effect and of its excess over the row's mean lie above 0, and it is large enough."""


def best_of(values: NDArray[np.floating], total: float, compared: int = 0) -> Best:
    """The largest mean over samples of [sample, cell] effects; samples are noise draws or facts, NaNs are left out.

    Args:
        total: the total effect; the largest mean must be at least `SMALLEST_SHARE` of it to stand out.
        compared: cells that the intervals are corrected for, if there are more than in this row.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array).any(axis=1)]
    means = array.mean(axis=0)
    index = int(means.argmax())
    confidence = _each(max(len(means), compared))
    low, high = interval(array[:, index], confidence=confidence)
    above, _ = interval(array[:, index] - array.mean(axis=1), confidence=confidence)
    # a single cell cannot stand out from a mean
    enough = means[index] >= max(SMALLEST_SHARE * total, SMALLEST_EFFECT)
    stands_out = bool(low > 0 and enough and (above > 0 or len(means) == 1))
    return Best(index, float(means[index]), float(low), float(high), float(means.mean()), stands_out)


def largest(result: TraceEffects) -> Cell:
    """The largest effect from the subject on and before the last token.

    Before the subject every effect is 0; at the last token every late state restores the answer.  If no position
    between was measured, all measured positions are compared.  For kl and rank it is the most negative effect.
    """
    measured = [pos for pos in range(len(result.tokens)) if _measured(result, pos)]
    between = [pos for pos in measured if result.subject_span[0] <= pos < len(result.tokens) - 1]
    return _largest(result, between or measured)


def largest_at(result: TraceEffects, position: int) -> Cell | None:
    """The largest effect at one position, as `largest`; None where it was not measured."""
    return _largest(result, [position]) if _measured(result, position) else None


def suggestion(
    result: TraceEffects, position: int | None = None, without: Mapping[int, Collection[int]] | None = None
) -> Suggestion:
    """The layer whose effect stands out at one token, by the probability of the answer.

    Args:
        position: a token of the prompt; by default the last of the subject, where ROME and its kin edit.
        without: position -> layers that cannot be edited there.

    Raises:
        ValueError: if `position` is outside the prompt.
    """
    without = without or {}
    position = result.subject_span[1] - 1 if position is None else position
    if not 0 <= position < len(result.tokens):
        raise ValueError(f"position {position} is outside the prompt's {len(result.tokens)} tokens")
    result = result.by("probability")
    where = _name(result, position)
    if not _measured(result, position):
        return Suggestion(None, f"{where[0].upper()}{where[1:]} was not traced, so no layer is suggested.", None)
    layers = _layers(result, position, without)
    if not layers:
        return Suggestion(None, f"Every layer's MLP is silent at {where}, so no edit can act there.", None)
    cell = _largest(result, [position], layers)
    if refusal := _refusal(result, position):
        return Suggestion(None, refusal, cell)
    best = best_of(_row(result, position, layers), result.total_effect)
    if best.stands_out:
        n = len(result.corrupted)
        reason = f"At {where} the effect is largest at layer {cell.layer}: {cell.effect:.3f}{cell.interval}, n = {n}."
        if cell.layer != _largest(result, [position]).layer:
            reason = (
                f"At {where} the effect is largest, of the layers whose MLP is not silent, at layer {cell.layer}: "
                f"{cell.effect:.3f}{cell.interval}, n = {n}."
            )
        return Suggestion(cell.layer, reason, cell)
    flat = ""
    if best.low > 0:
        share = f"{100 * best.effect / result.total_effect:.0f} % of the total effect"
        flat = f", {share} and {best.mean:.3f} on average over the layers"
    reason = (
        f"At {where} no layer stands out: the largest effect is {cell.effect:.3f} at layer {cell.layer}"
        f"{cell.interval}{flat}."
    )
    elsewhere = _elsewhere(result, position, without)
    undecided = best.effect - best.mean > SMALLEST_SHARE * result.total_effect
    if elsewhere is None:
        advice = "Take more samples or more noise, or compare every layer."
        return Suggestion(None, f"{reason} {advice}", cell, undecided=undecided)
    token = token_label(elsewhere.token)
    carries = f"{elsewhere.effect:.3f} at layer {elsewhere.layer}"
    advice = f"Token {token} carries more, {carries}: edit there, or compare every layer."
    return Suggestion(None, f"{reason} {advice}", cell, elsewhere, undecided)


def early_site(result: TraceEffects, without: Mapping[int, Collection[int]] | None = None) -> str:
    """One sentence on whether the map shows the early site of the paper, at the last subject token in the first half of
    the layers; empty where a map cannot show one.

    Args:
        without: as in `suggestion`.
    """
    suggested = suggestion(result, None, without)
    if (
        not can_show_site(result.config)
        or suggested.cell is None
        or _refusal(result.by("probability"), suggested.cell.position)
    ):
        return ""
    what, other = f"restoring the {SITE_NAMES[result.config.site].long}", suggested.elsewhere
    if other is not None and other.layer < result.n_layers / 2:
        where = f"{what} matters at {token_label(other.token)} instead, at layer {other.layer} of {result.n_layers}"
        return f"No early site at the last subject token: {where}."
    return "" if suggested.undecided else site_words(suggested.layer, result.n_layers, what)


def can_show_site(config: TraceConfig) -> bool:
    """Whether a map of these settings can show the early site: states or MLPs, denoising, nothing severed."""
    return config.site in ("resid_post", "mlp_out") and config.direction == "denoising" and config.severed is None


def site_words(layer: int | None, n_layers: int, what: str) -> str:
    """The sentence of `early_site` for a layer that stands out at the last subject token, or None."""
    where = f"{what} at the last subject token"
    if layer is None:
        return f"No early site: {where} has no layer that stands out. {MODELS_DIFFER}."
    if layer >= n_layers / 2:
        return f"No early site: {where} matters most late, at layer {layer} of {n_layers}. {MODELS_DIFFER}."
    return f"Early site: {where} matters most at layer {layer} of {n_layers}, as in Meng et al. (2022)."


def total_interval(result: TraceEffects) -> tuple[float, float]:
    """95 % t-interval of the total effect over noise samples; NaN for fewer than `FEWEST`."""
    low, high = interval(result.clean - result.corrupted.astype(np.float64))
    return float(low), float(high)


def _refusal(result: TraceEffects, position: int) -> str:
    """The reason why no layer of this trace can be suggested; empty if one can."""
    low, high = total_interval(result)
    if len(result.corrupted) < FEWEST:
        noise = "" if result.config.n_samples == result.config.samples else "the corruption gaussian and "
        runs = "One run has no" if len(result.corrupted) == 1 else "Two runs are too few for an"
        return f"{runs} interval, so no layer is suggested; trace with {noise}{ENOUGH_SAMPLES} samples."
    if not (low > 0 and result.total_effect > SMALLEST_EFFECT):
        certain = "" if result.total_effect <= SMALLEST_EFFECT else " that differs from 0"
        return (
            f"The corruption took nothing away{certain}: the total effect is {result.total_effect:.3f} (95 % CI "
            f"{low:.3f} to {high:.3f}), so no layer is suggested; use more noise or more samples."
        )
    if result.config.site == "resid_post" and position == len(result.tokens) - 1:
        return "At the last token a late state restores the answer by itself, so no layer is suggested; trace the MLP."
    if result.config.site == "resid_post" and result.subject_span[1] - result.subject_span[0] == 1:
        return (
            "The subject is one token, so restoring its first states undoes the corruption and no layer is suggested; "
            "trace the MLP."
        )
    return ""


def _elsewhere(result: TraceEffects, position: int, without: Mapping[int, Collection[int]]) -> Cell | None:
    """The largest effect at the subject's other tokens, if one stands out."""
    rows = {}
    for other in range(*result.subject_span):
        layers = _layers(result, other, without)
        if other != position and layers and _measured(result, other) and not _refusal(result, other):
            rows[other] = layers
    compared = sum(map(len, rows.values()))
    cells = [
        _largest(result, [other], layers)
        for other, layers in rows.items()
        if best_of(_row(result, other, layers), result.total_effect, compared).stands_out
    ]
    return max(cells, key=lambda cell: cell.effect, default=None)


def _measured(result: TraceEffects, position: int) -> bool:
    return not bool(np.isnan(result.restored[:, position]).any())


def _layers(result: TraceEffects, position: int, without: Mapping[int, Collection[int]]) -> list[int]:
    return [layer for layer in range(result.n_layers) if layer not in without.get(position, ())]


def _row(result: TraceEffects, position: int, layers: list[int]) -> NDArray[np.float64]:
    """[sample, cell], the effects of some layers at one position."""
    effects = result.effects()[:, position, layers]
    return effects.reshape(len(effects), -1)


def _largest(result: TraceEffects, positions: list[int], layers: list[int] | None = None) -> Cell:
    """The largest effect over some positions and layers, or the most negative where lower is better."""
    layers = list(range(result.n_layers)) if layers is None else layers
    effects = result.effects()[:, positions][:, :, layers]
    means = effects.mean(axis=0)
    flat = int(means.argmin() if result.measure in LOWER_IS_BETTER else means.argmax())
    pos, layer, *head = (int(index) for index in np.unravel_index(flat, means.shape))
    low, high = interval(effects.reshape(len(effects), -1)[:, flat], confidence=_each(means.size))
    return Cell(
        token=result.tokens[positions[pos]],
        position=positions[pos],
        layer=layers[layer],
        effect=float(means.flat[flat]),
        low=float(low),
        high=float(high),
        compared=means.size,
        head=head[0] if head else None,
    )


def _name(result: TraceEffects, position: int) -> str:
    start, stop = result.subject_span
    token = token_label(result.tokens[position])
    if position == stop - 1:
        return f"the last subject token {token}"
    return f"the subject token {token}" if start <= position < stop else f"the token {token}"


def _each(cells: int) -> float:
    """Confidence of each interval so that all of them together have `CONFIDENCE` (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / cells
