"""Figures for print in the style of Meng et al. 2022, figure 1e-g: one map, several, averages, a difference.

Each is a function of results, drawn without pyplot and so usable from any thread.  `tracing.plots.sheet.export` makes
the file, `tracing.plots.bundle` everything a paper needs around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tracing.plots import labels
from tracing.plots.colours import Palette, print_scale
from tracing.plots.sheet import FONT_SIZE, FigureFormat, export, font_families, panel, run_record, sheet
from tracing.sites import SITE_NAMES, site_of
from tracing.statistics import interval
from tracing.types import CATEGORIES, TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

Marks = Literal["dots", "none"]
COLUMN = 3.25
"""Inches: a column of a two-column paper; its text is 5.5 or 6.75 wide."""
TWO_COLUMNS = 6.75
STACKED_BELOW = 5.0
"""Inches below which panels stand one above the other."""


@dataclass(frozen=True)
class FigureStyle:
    """What an author chooses.

    Raises:
        ValueError: for an unknown palette or mark.
    """

    palette: Palette = "rome"
    marks: Marks = "dots"
    """Dots on cells whose 95 % interval includes 0, or none."""
    title: str = ""
    """Captions carry it, so there is none by default."""
    model_name: str = ""
    """The model's name as the paper writes it; by default the name it was loaded by."""

    def __post_init__(self) -> None:
        for name, value, choices in (("palette", self.palette, Palette), ("mark", self.marks, Marks)):
            if value not in get_args(choices):
                raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(get_args(choices))}")

    def model(self, result: TraceResult | AverageEffects) -> str:
        """The model's name in the figure."""
        return self.model_name or result.model_name


PLAIN = FigureStyle()


def trace_figure(result: TraceResult, *, width_in: float = COLUMN, style: FigureStyle = PLAIN) -> Figure:
    """One map.

    Args:
        width_in: inches.

    Raises:
        ValueError: if the width is not from 1 to 40 inches, no installed font can draw the tokens, or the trace is of
            heads, which have a map for each position.
    """
    result = result.own_words()
    names, title = labels.token_labels(result), style.title
    figure, (axes,) = sheet(width_in, 0.75 + 0.165 * len(names) + (0.25 if title else 0), 1)
    fonts = font_families([*names, labels.title(result), style.model(result), title])
    effect = labels.flat(result)
    marked = _marked(result.uncertain(), style)
    bar_label = "\n".join([f"effect on {labels.measured(result)}", *labels.marks([effect], bool(marked.any()))])
    scale = _scale(result.config.site, style, effect)
    panel(figure, axes, effect, scale, names, bar_label, fonts, effect, marked)
    axes.set_xlabel(f"{_layers(result)} in {style.model(result)}", fontsize=FONT_SIZE, fontfamily=fonts)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE + 1, fontfamily=fonts)
    return figure


def panels_figure(
    results: Sequence[TraceResult], *, width_in: float = TWO_COLUMNS, style: FigureStyle = PLAIN
) -> Figure:
    """Several maps of one prompt, usually states, MLP and attention, on one colour scale.

    They stand side by side, or one above the other where the figure is narrower than `STACKED_BELOW`.

    Raises:
        ValueError: as `trace_figure`, and if the maps are not of one prompt, model, measure and noise.
    """
    results = same_question([result.own_words() for result in results])
    grids = [labels.flat(result) for result in results]
    everything = np.concatenate(grids)
    marks = [_marked(result.uncertain(), style) for result in results]
    names, model = labels.token_labels(results[0]), style.model(results[0])
    fonts = font_families([*names, *map(labels.title, results), model, style.title])
    figure, panels = _panels(width_in, len(names), len(results), style)
    bar_label = f"effect on {labels.measured(results[0])}"
    beside = width_in >= STACKED_BELOW
    for index, (axes, result, grid, marked) in enumerate(zip(panels, results, grids, marks, strict=True)):
        rows = names if index == 0 or not beside else []
        label = bar_label if index == len(results) - 1 or not beside else ""
        scale = _scale(result.config.site, style, everything)
        panel(figure, axes, grid, scale, rows, label, fonts, everything, marked)
        _letter(axes, index, panel_name(result), fonts)
    words = labels.marks([everything], any(marked.any() for marked in marks))
    _around(figure, "; ".join([f"layer in {model}", *words]), style, fonts)
    return figure


def difference_figure(
    first: TraceResult,
    second: TraceResult,
    *,
    names: tuple[str, str] = ("first", "second"),
    width_in: float = TWO_COLUMNS,
    style: FigureStyle = PLAIN,
) -> Figure:
    """Two maps on one scale, such as before and after an edit, and second minus first on a scale of its own.

    Maps of different answers, such as what each model says, have theirs above them.

    Raises:
        ValueError: as `trace_figure`, and if the maps do not have the same tokens, site, layers and measure.
    """
    first, second = comparable(first.own_words(), second.own_words())
    change, uncertain = difference(first, second)
    both = np.concatenate([labels.flat(first), labels.flat(second)])
    tokens, model = labels.token_labels(first), style.model(first)
    fonts = font_families([*tokens, labels.title(first), labels.title(second), model, style.title, *names])
    figure, panels = _panels(width_in, len(tokens), 3, style)
    beside = width_in >= STACKED_BELOW
    answers = [labels.measured(result) for result in (first, second)]
    same = answers[0] == answers[1]
    titles = names if same else [f"{name}: {answer}" for name, answer in zip(names, answers, strict=True)]
    drawn: tuple[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]], ...] = (
        (titles[0], labels.flat(first), both, first.uncertain()),
        (titles[1], labels.flat(second), both, second.uncertain()),
        (f"{names[1]} − {names[0]}", change, change, uncertain),
    )
    marks = [_marked(marked, style) for *_, marked in drawn]
    for index, (axes, marked) in enumerate(zip(panels, marks, strict=True)):
        name, grid, scaled, _ = drawn[index]
        rows = tokens if index == 0 or not beside else []
        label = (f"effect on {answers[0]}" if same else "effect") if index == 2 or not beside else ""
        scale = _scale(first.config.site, style, scaled)
        panel(figure, axes, grid, scale, rows, label, fonts, scaled, marked)
        _letter(axes, index, name, fonts)
    words = labels.marks([both, change], any(marked.any() for marked in marks))
    _around(figure, "; ".join([f"{_layers(first)} in {model}", *words]), style, fonts)
    return figure


def average_figure(average: AverageEffects, *, width_in: float = TWO_COLUMNS, style: FigureStyle = PLAIN) -> Figure:
    """Average indirect effects by token category and layer, one panel a map, all on one colour scale.

    Raises:
        ValueError: if there is no map but of heads, which have no place on a layer axis.
    """
    maps = labels.layer_maps(average)
    figure, panels = sheet(width_in, 1.9, len(maps))
    grids = [np.stack([average.mean(name, category) for category in CATEGORIES]) for name in maps]
    everything = np.concatenate(grids)
    title = style.title or labels.average_title(replace(average, model_name=style.model(average)))
    fonts = font_families([title])
    names = list(labels.CATEGORY_NAMES.values())
    marks = [_marked(average.uncertain(name), style) for name in maps]
    for axes, name, grid, marked in zip(panels, maps, grids, marks, strict=True):
        rows = names if axes is panels[0] else []
        scale = _scale(site_of(name), style, everything)
        panel(figure, axes, grid, scale, rows, "AIE", fonts, everything, marked)
        axes.set_title(labels.map_title(name).replace(", ", ",\n"), fontsize=FONT_SIZE - 1, fontfamily=fonts)
        axes.set_xlabel("layer", fontsize=FONT_SIZE, fontfamily=fonts)
    words = "; ".join(labels.marks([everything], any(marked.any() for marked in marks)))
    figure.suptitle(f"{title} ({words})" if words else title, fontsize=FONT_SIZE, fontfamily=fonts)
    return figure


def figure_bytes(
    results: TraceResult | Sequence[TraceResult],
    fmt: FigureFormat,
    *,
    width_in: float | None = None,
    style: FigureStyle = PLAIN,
) -> bytes:
    """`trace_figure`, or `panels_figure` of several, as a file with the settings in its metadata; the same bytes for
    the same traces.

    Raises:
        ValueError: for an unknown format, and as those.
    """
    traces = [results] if isinstance(results, TraceResult) else list(results)
    if len(traces) == 1:
        figure = trace_figure(traces[0], width_in=width_in or COLUMN, style=style)
    else:
        figure = panels_figure(traces, width_in=width_in or TWO_COLUMNS, style=style)
    return export(figure, fmt, title=labels.title(traces[0]), record=run_record(traces[0]))


def same_question(results: Sequence[TraceResult]) -> list[TraceResult]:
    """The maps, if one figure may hold them.

    Raises:
        ValueError: if there is none, or they differ in more than the site and its window.
    """
    if not results:
        raise ValueError("there is no map to draw; give at least one trace")
    wanted = _asked(results[0])
    for result in results[1:]:
        for what, value in _asked(result).items():
            if value != wanted[what]:
                raise ValueError(f"the maps have different {what}, so one figure would mislead; draw them apart")
    return list(results)


def _asked(result: TraceResult) -> dict[str, object]:
    """What the maps of one figure share."""
    config = result.config
    return {
        "prompts": (result.tokens, result.subject_span),
        "models": (result.revision, result.n_layers),
        "answers": result.answer,
        "measures": result.measure,
        "noise": (result.noise_std, result.corruption, config.n_samples, config.seed, config.direction),
    }


def comparable(first: TraceResult, second: TraceResult) -> tuple[TraceResult, TraceResult]:
    """The two maps, if their difference has a meaning.

    Raises:
        ValueError: saying in what they differ.
    """
    for what, one, other in (
        ("tokens", first.tokens, second.tokens),
        ("sites", first.config.site, second.config.site),
        ("windows", first.config.window, second.config.window),
        ("numbers of layers", first.n_layers, second.n_layers),
        ("measures", first.measure, second.measure),
    ):
        if one != other:
            raise ValueError(f"the two traces have different {what} ({one!r} and {other!r}), so no cell has a partner")
    return first, second


def difference(first: TraceResult, second: TraceResult) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """([pos, layer] second minus first, [pos, layer] where its 95 % interval includes 0).

    The interval is over noise samples in pairs, so both traces need the same noise; without it nothing is marked.
    """
    change = (labels.flat(second) - labels.flat(first)).astype(np.float32)
    same = all(
        getattr(first.config, name) == getattr(second.config, name)
        for name in ("seed", "samples", "noise", "corruption", "additive", "counterfactual", "direction")
    )
    if not same or first.noise_std != second.noise_std:
        return change, np.zeros(change.shape, dtype=bool)
    low, high = interval(second.effects() - first.effects())
    return change, np.asarray((low <= 0) & (high >= 0))


def _layers(result: TraceResult) -> str:
    """What the layer axis of one map counts."""
    where, window = SITE_NAMES[result.config.site].long, result.config.window
    return f"layer of the restored {where}" if window == 1 else f"centre of {window} layers of restored {where}"


def panel_name(result: TraceResult) -> str:
    """A map among several: "MLP output, window of 7"."""
    config = result.config
    severed = "" if config.severed is None else f", {SITE_NAMES[config.severed].long} severed"
    window = f", window of {config.window}" if config.window > 1 else ""
    return f"{SITE_NAMES[config.site].long}{severed}{window}"


def _marked(uncertain: NDArray[np.bool_], style: FigureStyle) -> NDArray[np.bool_]:
    return uncertain if style.marks == "dots" else np.zeros_like(uncertain)


def _scale(site: str, style: FigureStyle, effect: NDArray[np.floating]) -> str:
    return print_scale(site, style.palette, two_sided=labels.has_two_sides(effect))


def _panels(width_in: float, n_rows: int, n_panels: int, style: FigureStyle) -> tuple[Figure, Sequence[Axes]]:
    """An empty sheet for maps of so many tokens."""
    stacked = width_in < STACKED_BELOW
    height = 0.45 + 0.165 * n_rows
    extra = 0.35 + (0.25 if style.title else 0)
    return sheet(width_in, height * (n_panels if stacked else 1) + extra, n_panels, stacked=stacked)


def _letter(axes: Axes, index: int, name: str, fonts: list[str]) -> None:
    """Name a panel as captions do: (a), (b), (c)."""
    axes.set_title(f"({ascii_lowercase[index]}) {name}", fontsize=FONT_SIZE - 1, fontfamily=fonts)


def _around(figure: Figure, below: str, style: FigureStyle, fonts: list[str]) -> None:
    """The words that all panels share."""
    figure.supxlabel(below, fontsize=FONT_SIZE, fontfamily=fonts)
    if style.title:
        figure.suptitle(style.title, fontsize=FONT_SIZE + 1, fontfamily=fonts)
