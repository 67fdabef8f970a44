"""Figures of a trace and of averages: interactive (Plotly) and for print in the style of Meng et al. 2022 (Matplotlib).

All show the indirect effect, a difference of probabilities, on a colour scale anchored at zero: sequential, or
diverging around zero where negative effects are noticeable.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, get_args

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tracing.measures import UNITS
from tracing.plots import labels
from tracing.plots.labels import ColourScale
from tracing.plots.sheet import (
    DIVERGING,
    FONT_SIZE,
    LINES,
    FigureFormat,
    export,
    font_families,
    page,
    panel,
    run_record,
    sheet,
)
from tracing.types import CATEGORIES, Category, TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

__all__ = [
    "DOT",
    "ROME_MAPS",
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

ROME_MAPS: dict[str, str] = {"resid_post": "Purples", "mlp_out": "Greens", "attn_out": "Reds", "attn_heads": "Reds"}
DOT = "·"
LIKELIHOODS = ("probability", "log_probability", "logit_difference")


def trace_heatmap(
    result: TraceResult,
    *,
    selected_layer: int | None = None,
    dark: bool = False,
    scale: ColourScale = "cividis",
    swap_axes: bool = False,
    zmax: float | None = None,
) -> go.Figure:
    """The indirect effect by token (rows, the first on top) and layer (columns), with clickable invisible markers.

    The second trace is a scatter of one invisible marker per cell, row-major over (token, layer) however the axes lie,
    so a click's `point_index % n_layers` is the layer: a heatmap alone sends no selection to Streamlit.

    Args:
        selected_layer: outlined.
        dark: for a dark page; ROME's white-based scales glare there, so cividis is taken instead.
        swap_axes: layers as rows.
        zmax: top of the colour scale, to give several maps one scale; an effect, as a difference of probabilities.

    Raises:
        ValueError: if the layer is out of range or the scale is unknown.
    """
    result = result.own_words()
    n_pos, n_layers = len(result.tokens), result.n_layers
    _flat(result)
    if selected_layer is not None and not 0 <= selected_layer < n_layers:
        raise ValueError(f"layer {selected_layer} is out of range; {result.model_name} has layers 0 to {n_layers - 1}")
    rows = n_layers if swap_axes else n_pos
    figure = go.Figure([_cells(result, scale, dark, swap_axes, zmax), _click_targets(result, swap_axes)])
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
    x, y = (token_axis, layer_axis) if swap_axes else (layer_axis, token_axis)
    shared = {"fixedrange": True, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**x, **shared, range=[-0.5, (n_pos if swap_axes else n_layers) - 0.5])
    figure.update_yaxes(**y, **shared, range=[rows - 0.5, -0.5])
    figure.update_layout(
        title={"text": html.escape(labels.title(result)), "font": {"size": 15}},
        height=120 + max(24 * rows, 120),
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        hoverdistance=-1,  # the nearest marker, however far: on a lattice that is the cell itself
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    if selected_layer is not None:
        across, along = (selected_layer - 0.5, selected_layer + 0.5), (-0.5, n_pos - 0.5)
        (x0, x1), (y0, y1) = (along, across) if swap_axes else (across, along)
        line = {"color": "#ff5cc8" if dark else "#d6249f", "width": 3}
        figure.add_shape(type="rect", x0=x0, x1=x1, y0=y0, y1=y1, line=line)
    return figure


def heatmap_html(result: TraceResult, *, scale: ColourScale = "cividis") -> str:
    """The heatmap as one self-contained HTML page (5 MB) that opens offline; the same bytes for the same trace."""
    return page(trace_heatmap(result, scale=scale))


def trace_figure(
    result: TraceResult, *, width_in: float = 3.25, scale: ColourScale = "rome", title: str | None = None
) -> Figure:
    """The trace for print, drawn without pyplot and so usable from any thread.

    Args:
        width_in: inches; 3.25 for a column, 5.5 for a page of text, 6.75 for two columns.
        scale: "rome" is the paper's purple, green or red by site.
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
    bar_label = f"effect on {labels.measured(result)}" + (f" ({labels.MARKED})" if marked.any() else "")
    panel(figure, axes, effect, _map_name(result.config.site, scale), names, bar_label, fonts, effect, marked)
    where = labels.SITE_NAMES[result.config.site]
    window = result.config.window
    what = f"layer of the restored {where}" if window == 1 else f"centre of {window} layers of restored {where}"
    axes.set_xlabel(f"{what} in {result.model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE + 1, fontfamily=fonts)
    return figure


def average_figure(average: AverageEffects, *, width_in: float = 6.75, scale: ColourScale = "rome") -> Figure:
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
        panel(figure, axes, grid, _map_name(_site(name), scale), rows, "AIE", fonts, everything, marked)
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
    """The maps that have a layer axis alone."""
    maps = [name for name, effects in average.effects.items() if effects.ndim == 3]
    if not maps:
        raise ValueError("the average holds heads alone, which have no place on a layer axis; use its table")
    return maps


def _site(name: str) -> str:
    """The site of a map, whatever was severed."""
    return name.partition(",")[0]


def figure_bytes(
    result: TraceResult,
    fmt: FigureFormat,
    *,
    width_in: float = 3.25,
    scale: ColourScale = "rome",
    title: str | None = None,
) -> bytes:
    """`trace_figure` as a file, with the run's settings in its metadata; the same bytes for the same trace.

    Raises:
        ValueError: for an unknown format, and as `trace_figure`.
    """
    figure = trace_figure(result, width_in=width_in, scale=scale, title=title)
    return export(figure, fmt, title=labels.title(result), record=run_record(result))


def _cells(result: TraceResult, scale: ColourScale, dark: bool, swap_axes: bool, zmax: float | None) -> go.Heatmap:
    """The coloured cells, with the colour bar that says what the colours mean."""
    effect = result.indirect_effect
    low, high = labels.colour_range(effect, zmax)
    marked = result.uncertain()
    less = "less likely" if result.measure in LIKELIHOODS else "below zero"
    meaning = f"Indirect effect<br>({UNITS[result.measure]})" + (f"<br>orange: answer<br>{less}" if low < 0 else "")
    meaning += f"<br>{DOT} interval<br>holds 0" if marked.any() else ""
    return go.Heatmap(
        z=effect.T if swap_axes else effect,
        zmin=low,
        zmax=high,
        colorscale=_plotly_scale(result.config.site, scale, two_sided=low < 0, dark=dark),
        colorbar={"title": {"text": meaning}, "thickness": 14},
        hoverinfo="skip",
        xgap=1,
        ygap=1,
        text=np.where(marked.T if swap_axes else marked, DOT, "").tolist(),
        texttemplate="%{text}",
    )


def _click_targets(result: TraceResult, swap_axes: bool) -> go.Scatter:
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
        x=positions if swap_axes else layers,
        y=layers if swap_axes else positions,
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
    """[pos, layer], the indirect effect, where the trace has a map of one."""
    if result.indirect_effect.ndim != 2:
        raise ValueError("a trace of heads has a map for each position; draw it with heads_chart or heads_figure")
    return result.indirect_effect


def _number(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.4f}"


def _plotly_scale(site: str, scale: ColourScale, *, two_sided: bool, dark: bool) -> str:
    """The name of a Plotly colour scale."""
    _check_scale(scale)
    if two_sided:
        return DIVERGING
    if scale == "rome":
        return "cividis" if dark else ROME_MAPS[site]
    return scale


def _map_name(site: str, scale: ColourScale) -> str:
    _check_scale(scale)
    return ROME_MAPS[site] if scale == "rome" else scale


def _check_scale(scale: str) -> None:
    if scale not in get_args(ColourScale):
        raise ValueError(f"unknown colour scale {scale!r}; choose from {', '.join(get_args(ColourScale))}")
