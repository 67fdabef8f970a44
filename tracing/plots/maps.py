"""Figures of a trace and of averages: interactive (Plotly) and for print in the style of Meng et al. 2022 (Matplotlib).

All show the indirect effect, a difference of probabilities, on a colour scale anchored at zero: sequential, or
diverging around zero where negative effects are noticeable.
"""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING, get_args

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tracing.measures import UNITS
from tracing.plots import labels
from tracing.plots.colours import BY_SITE, LINES, ColourScale, heat_scale
from tracing.plots.sheet import (
    FONT_SIZE,
    FigureFormat,
    export,
    font_families,
    page,
    panel,
    run_record,
    sheet,
)
from tracing.sites import SITE_NAMES, site_of
from tracing.types import CATEGORIES, Category, TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

__all__ = [
    "FigureFormat",
    "average_chart",
    "average_figure",
    "export",
    "figure_bytes",
    "font_families",
    "heatmap_html",
    "page",
    "panel",
    "run_record",
    "trace_figure",
    "trace_heatmap",
]

BAR_CHARACTERS = 22
"""After which the words beside a colour bar break into another line."""


def trace_heatmap(
    result: TraceResult,
    *,
    dark: bool = False,
    scale: ColourScale = "cividis",
    zmax: float | None = None,
) -> go.Figure:
    """The indirect effect by token (rows, the first on top) and layer (columns), with clickable invisible markers.

    The second trace is a scatter of one invisible marker per cell, row-major over (token, layer), so a click's
    `point_index % n_layers` is the layer: a heatmap alone sends no selection to Streamlit.

    Args:
        dark: for a dark page; ROME's white-based scales glare there, so cividis is taken instead.
        zmax: top of the colour scale, to give several maps one scale; an effect, as a difference of probabilities.

    Raises:
        ValueError: if the scale is unknown, or the trace is of heads.
    """
    result = result.own_words()
    n_pos, n_layers = len(result.tokens), result.n_layers
    _flat(result)
    if scale not in get_args(ColourScale):
        raise ValueError(f"unknown colour scale {scale!r}; choose from {', '.join(get_args(ColourScale))}")
    figure = go.Figure([_cells(result, scale, dark, zmax), _click_targets(result)])
    ticks = labels.layer_ticks(n_layers, 24)
    layer_axis = {
        "title": {"text": labels.layer_title(result)},
        "tickvals": ticks,
        "ticktext": [str(layer) for layer in ticks],
    }
    token_axis = {
        "title": {"text": "Token (* subject)"},
        "tickvals": list(range(n_pos)),
        "ticktext": [html.escape(label) for label in labels.token_labels(result)],
    }
    shared = {"fixedrange": True, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**layer_axis, **shared, range=[-0.5, n_layers - 0.5])
    figure.update_yaxes(**token_axis, **shared, range=[n_pos - 0.5, -0.5])
    figure.update_layout(
        title={"text": html.escape(labels.title(result)), "font": {"size": 15}},
        height=120 + max(24 * n_pos, 120),
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        hoverdistance=-1,  # the nearest marker, however far: on a lattice that is the cell itself
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def heatmap_html(result: TraceResult, *, scale: ColourScale = "cividis") -> str:
    """The heatmap as one self-contained HTML page (5 MB) that opens offline; the same bytes for the same trace."""
    return page(trace_heatmap(result, scale=scale))


def trace_figure(result: TraceResult, *, width_in: float = 3.25, title: str | None = None) -> Figure:
    """The trace for print, drawn without pyplot and so usable from any thread.

    Args:
        width_in: inches; 3.25 for a column, 5.5 for a page of text, 6.75 for two columns.
        title: off by default, since captions carry it.

    Raises:
        ValueError: if the width is not from 1 to 40 inches, or no installed font can draw the tokens.
    """
    result = result.own_words()
    names = labels.token_labels(result)
    figure, (axes,) = sheet(width_in, 0.75 + 0.165 * len(names) + (0.25 if title else 0), 1)
    fonts = font_families([*names, labels.title(result), result.model_name, title or ""])
    effect = _flat(result)
    marked = result.uncertain()
    bar_label = f"effect on {labels.measured(result)}" + (f"\n{labels.MARKED}" if marked.any() else "")
    panel(figure, axes, effect, BY_SITE[result.config.site], names, bar_label, fonts, effect, marked)
    where = SITE_NAMES[result.config.site].long
    window = result.config.window
    what = f"layer of the restored {where}" if window == 1 else f"centre of {window} layers of restored {where}"
    axes.set_xlabel(f"{what} in {result.model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE + 1, fontfamily=fonts)
    return figure


def average_figure(average: AverageEffects, *, width_in: float = 6.75) -> Figure:
    """Average indirect effects by token category and layer, one panel a map, all on one colour scale.

    Raises:
        ValueError: if there is no map but of heads, which have no place on a layer axis.
    """
    maps = _maps(average)
    figure, panels = sheet(width_in, 1.9, len(maps))
    grids = [np.stack([average.mean(name, category) for category in CATEGORIES]) for name in maps]
    everything = np.concatenate(grids)
    fonts = font_families([average.model_name])
    names = list(labels.CATEGORY_NAMES.values())
    for axes, name, grid in zip(panels, maps, grids, strict=True):
        rows = names if axes is panels[0] else []
        marked = average.uncertain(name)
        panel(figure, axes, grid, BY_SITE[site_of(name)], rows, "AIE", fonts, everything, marked)
        axes.set_title(labels.map_title(name).replace(", ", ",\n"), fontsize=FONT_SIZE - 1, fontfamily=fonts)
        axes.set_xlabel("layer", fontsize=FONT_SIZE, fontfamily=fonts)
    dots = f" ({labels.MARKED})" if any(average.uncertain(name).any() for name in maps) else ""
    figure.suptitle(labels.average_title(average) + dots, fontsize=FONT_SIZE, fontfamily=fonts)
    return figure


def average_chart(average: AverageEffects, category: Category = "last_subject") -> go.Figure:
    """Average indirect effect by layer at one kind of token, a line a map: the 95 % interval of the mean over facts as
    a band, and half of the facts between the dotted lines.

    Raises:
        ValueError: as `average_figure`, or if there is no such category.
    """
    figure = go.Figure()
    for name, colour in zip(_maps(average), LINES * 8, strict=False):
        mean, (low, high) = average.mean(name, category), average.ci(name, category)
        lower, upper = average.quantiles(name, category, (0.25, 0.75))
        layers = list(range(len(mean)))
        shared = {"legendgroup": name, "mode": "lines"}  # a click in the legend hides all of a map
        band = {"x": layers + layers[::-1], "y": [*high, *low[::-1]], "fill": "toself", "opacity": 0.25, **shared}
        figure.add_scatter(**band, line={"width": 0}, fillcolor=colour, hoverinfo="skip", showlegend=False)
        for edge in (lower, upper):
            dots = {"color": colour, "width": 1, "dash": "dot"}
            figure.add_scatter(x=layers, y=edge, line=dots, hoverinfo="skip", showlegend=False, **shared)
        figure.add_scatter(x=layers, y=mean, name=labels.map_title(name), line={"color": colour}, **shared)
    figure.update_xaxes(title_text="Layer")
    figure.update_yaxes(title_text="Average indirect effect (probability)", zeroline=True)
    where = labels.CATEGORY_NAMES[category]
    return figure.update_layout(title={"text": html.escape(f"{where}: {labels.average_title(average)}")})


def _maps(average: AverageEffects) -> list[str]:
    """The maps whose last axis is the layer."""
    maps = [name for name, effects in average.effects.items() if effects.ndim == 3]
    if not maps:
        raise ValueError("the average holds heads alone, which have no place on a layer axis; use its table")
    return maps


def figure_bytes(
    result: TraceResult,
    fmt: FigureFormat,
    *,
    width_in: float = 3.25,
    title: str | None = None,
) -> bytes:
    """`trace_figure` as a file, with the run's settings in its metadata; the same bytes for the same trace.

    Raises:
        ValueError: for an unknown format, and as `trace_figure`.
    """
    figure = trace_figure(result, width_in=width_in, title=title)
    return export(figure, fmt, title=labels.title(result), record=run_record(result))


def _cells(result: TraceResult, scale: ColourScale, dark: bool, zmax: float | None) -> go.Heatmap:
    """The coloured cells, with the colour bar that says what the colours mean."""
    low, high = labels.colour_range(result.indirect_effect, zmax)
    words = [textwrap.fill(line, BAR_CHARACTERS) for line in labels.bar_words(result, two_sided=low < 0)]
    return go.Heatmap(
        z=result.indirect_effect,
        zmin=low,
        zmax=high,
        colorscale=heat_scale(result.config.site if scale == "rome" else None, two_sided=low < 0, dark=dark),
        colorbar={"title": {"text": "\n".join(words).replace("\n", "<br>")}, "thickness": 14},
        hoverinfo="skip",
        xgap=1,
        ygap=1,
        text=np.where(result.uncertain(), labels.DOT, "").tolist(),
        texttemplate="%{text}",
    )


def _click_targets(result: TraceResult) -> go.Scatter:
    """One invisible marker per cell with everything the hover text needs."""
    low, high = result.ci()
    layers = np.tile(np.arange(result.n_layers), len(result.tokens))
    positions = np.repeat(np.arange(len(result.tokens)), result.n_layers)
    names = [html.escape(label) for label in labels.token_labels(result)]
    values = [result.indirect_effect, result.mean, low, high]
    columns = [[_number(value) for value in array.ravel().tolist()] for array in values]
    done = "restored" if result.config.direction == "denoising" else "corrupted"
    shown = f"p(answer) {done}" if result.measure == "probability" else f"{UNITS[result.measure]} {done}"
    return go.Scatter(
        x=layers,
        y=positions,
        mode="markers",
        marker={"size": 6, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        showlegend=False,
        customdata=[
            [int(layer), names[pos], *rest] for layer, pos, *rest in zip(layers, positions, *columns, strict=True)
        ],
        hovertemplate=(
            "layer %{customdata[0]}, token %{customdata[1]}<br>indirect effect %{customdata[2]}"
            "<br>95 % interval %{customdata[4]} to %{customdata[5]}"
            f"<br>{shown} %{{customdata[3]}}<extra></extra>"
        ),
    )


def _flat(result: TraceResult) -> NDArray[np.float32]:
    """[pos, layer], the indirect effect; an error for heads, which have one map per position."""
    if result.indirect_effect.ndim != 2:
        raise ValueError("a trace of heads has a map for each position; draw it with heads_chart or heads_figure")
    return result.indirect_effect


def _number(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.4f}"
