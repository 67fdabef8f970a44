"""Words and scales of the trace figures: token labels, titles, layer ticks, and when a scale has two sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tracing.config import Direction
from tracing.measures import UNITS, Measure
from tracing.plots.colours import BELOW_ZERO
from tracing.sites import SITE_NAMES
from tracing.tokens import token_label
from tracing.types import Category, TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects

CATEGORY_NAMES: dict[Category, str] = {
    "first_subject": "First subject token",
    "middle_subject": "Middle subject tokens",
    "last_subject": "Last subject token",
    "first_subsequent": "First subsequent token",
    "further_tokens": "Further tokens",
    "last_token": "Last token",
}
EFFECTS: dict[Direction, str] = {"denoising": "restoring", "noising": "corrupting"}
MEASURED: dict[Measure, str] = {
    "probability": "p({})",
    "log_probability": "log p({})",
    "logit_difference": "the logit difference of {}",
    "kl": "the divergence from the clean run",
    "rank": "the rank of {}",
    "fraction_restored": "the fraction of p({}) restored",
}
DOT = "·"
MARKED = "dot: not significant (95 % CI includes 0)"
DASHED = "dash: below 0"
NEGATIVE: dict[Measure, str] = {
    "probability": "answer less likely",
    "log_probability": "answer less likely",
    "logit_difference": "answer less likely",
    "kl": "nearer to the clean run",
    "rank": "answer ranks higher",
    "fraction_restored": "below zero",
}
"""What an effect below 0 means."""


class Prompted(Protocol):
    """Any result about one prompt."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens as text."""
        ...

    @property
    def subject_span(self) -> tuple[int, int]:
        """Half-open token positions of the subject."""
        ...


def token_labels(result: Prompted) -> list[str]:
    """Every token's label, subject tokens marked with a star as in the paper."""
    start, stop = result.subject_span
    return [token_label(text) + ("*" if start <= pos < stop else "") for pos, text in enumerate(result.tokens)]


def title(result: TraceResult) -> str:
    """One line: what was restored, what was severed, and the answer it is about."""
    config = result.config
    without = "" if config.severed is None else f", {SITE_NAMES[config.severed].long} severed,"
    return f"Effect of {EFFECTS[config.direction]} the {SITE_NAMES[config.site].long}{without} on {measured(result)}"


def measured(result: TraceResult) -> str:
    """The measured quantity, such as "p(Seattle)"."""
    return MEASURED[result.measure].format(token_label(result.answer.strip()))


def bar_words(result: TraceResult, *, two_sided: bool) -> list[str]:
    """What a colour bar says: the quantity with its unit, what the colours below 0 mean, what a dot means."""
    words = [f"Indirect effect ({UNITS[result.measure]})"]
    if two_sided:
        words.append(f"{BELOW_ZERO}: {NEGATIVE[result.measure]}")
    return [*words, MARKED] if result.uncertain().any() else words


def map_title(name: str) -> str:
    """A map among several, such as "residual stream, MLP output severed"."""
    site, _, rest = name.partition(", ")
    words: dict[str, str] = {key: names.long for key, names in SITE_NAMES.items()}
    severed = rest.removesuffix(" severed")
    return words.get(site, site) + (f", {words.get(severed, severed)} severed" if rest else "")


def average_title(average: AverageEffects) -> str:
    """One line: the model, the number of facts and the average total effect."""
    return f"{average.model_name}, {average.n_facts} facts, average total effect {average.ate:.2f}"


def layer_title(result: TraceResult) -> str:
    """The layer axis: one layer, or the centre of a window."""
    window = result.config.window
    return "Layer" if window == 1 else f"Layer (centre of a window of {window})"


def layer_ticks(n_layers: int, at_most: int = 12) -> list[int]:
    """Layers to label: evenly stepped, always the first and the last, none crowding the last."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, n_layers) if (n_layers - 1) // step < at_most)
    return [layer for layer in range(0, n_layers - 1, step) if n_layers - 1 - layer > step / 2] + [n_layers - 1]


def noticeable(effect: NDArray[np.floating]) -> float:
    """The effect below which a negative one is noticeable: -0.01, or a tenth of the largest effect's size."""
    return -max(0.01, 0.1 * float(np.nanmax(np.abs(effect))))


def has_two_sides(effect: NDArray[np.floating]) -> bool:
    """Whether negative effects are noticeable."""
    return float(np.nanmin(effect)) < noticeable(effect)


def marks(effects: Sequence[NDArray[np.floating]], dotted: bool) -> list[str]:
    """What the marks of a figure for print mean.

    Args:
        effects: of the maps, an array for each scale.
        dotted: whether a cell has a dot.
    """
    return [*([MARKED] if dotted else []), *([DASHED] if any(map(has_two_sides, effects)) else [])]


def colour_range(effect: NDArray[np.float32], zmax: float | None = None) -> tuple[float, float]:
    """(low, high) of the colour scale: from zero up, or the same both ways around zero."""
    high = float(np.nanmax(np.abs(effect))) if zmax is None else zmax
    high = max(high, 1e-6)  # an all-zero map still needs a scale
    return (-high if has_two_sides(effect) else 0.0), high


def flat(result: TraceResult) -> NDArray[np.float32]:
    """[pos, layer], the indirect effect.

    Raises:
        ValueError: for heads, which have one map per position.
    """
    if result.indirect_effect.ndim != 2:
        raise ValueError("a trace of heads has a map for each position; draw it with heads_chart or heads_figure")
    return result.indirect_effect


def layer_maps(average: AverageEffects) -> list[str]:
    """The maps whose last axis is the layer.

    Raises:
        ValueError: if there is none.
    """
    maps = [name for name, effects in average.effects.items() if effects.ndim == 3]
    if not maps:
        raise ValueError("the average holds heads alone, which have no place on a layer axis; use its table")
    return maps
