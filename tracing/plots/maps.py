"""Figures of a trace and of averages for the screen (Plotly); those for print are in `tracing.plots.paper`.

All show the indirect effect, a difference of probabilities, on a colour scale anchored at zero: sequential, or
diverging around zero where negative effects are noticeable.
"""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING, get_args

import numpy as np
import plotly.graph_objects as go

from tracing.measures import UNITS
from tracing.plots import labels
from tracing.plots.colours import LINES, ColourScale, heat_scale
from tracing.plots.sheet import page
from tracing.types import Category, TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

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
    labels.flat(result)
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


def average_chart(average: AverageEffects, category: Category = "last_subject") -> go.Figure:
    """Average indirect effect by layer at one kind of token, a line a map: the 95 % interval of the mean over facts as
    a band, and half of the facts between the dotted lines.

    Raises:
        ValueError: as `tracing.plots.paper.average_figure`, or if there is no such category.
    """
    figure = go.Figure()
    for name, colour in zip(labels.layer_maps(average), LINES * 8, strict=False):
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


def _number(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.4f}"
