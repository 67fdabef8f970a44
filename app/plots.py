"""Figures that belong to the page alone."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from tracing.labels import token_labels
from tracing.plots import trace_heatmap

if TYPE_CHECKING:
    from app.every_layer import EveryLayer
    from tracing import TraceResult

TOP, RIGHT, BOTTOM = 62, 10, 54
"""Pixels around the cells of the map; above them lies the colour bar."""
# Okabe and Ito's colours, told apart by colour-blind readers too; dashes and marks tell them apart without any colour.
LINES = {
    "p(new answer)": ("#0072b2", "solid", "circle"),
    "reliability": ("#d55e00", "dot", "square"),
    "generalization": ("#009e73", "dash", "diamond"),
    "locality": ("#cc79a7", "dashdot", "triangle-up"),
    "portability": ("#e69f00", "longdash", "x"),
}


def every_layer_figure(found: EveryLayer, *, dark: bool = False) -> go.Figure:
    """What the trace gives back at each layer (bars), and what the same edit reaches there (lines), from 0 to 1."""
    ink = "#dfe6ec" if dark else "#2b333b"
    bars = go.Bar(
        x=found.layers,
        y=found.effect,
        name="trace: indirect effect",
        marker_color="#5b6b7a" if dark else "#c3ccd4",
        hovertemplate="layer %{x}<br>indirect effect %{y:.3f}<extra></extra>",
    )
    figure = go.Figure(bars)
    measured = {name: values for name, values in found.scores.items() if any(value is not None for value in values)}
    for name, values in measured.items():
        colour, dash, symbol = LINES[name]
        figure.add_scatter(
            x=found.layers,
            y=values,
            name=f"edit: {name}",
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8},
            hovertemplate=f"layer %{{x}}<br>{name} %{{y:.2f}}<extra></extra>",
        )
    figure.update_layout(
        height=380,
        margin={"t": 10, "r": 10, "b": 50, "l": 55},
        font_color=ink,
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "font": {"color": ink}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    for axis, title in ((figure.layout.xaxis, "Layer"), (figure.layout.yaxis, "Share, or probability")):
        axis.update(title={"text": title, "font": {"color": ink}}, tickfont_color=ink, fixedrange=True)
    figure.update_xaxes(dtick=1 if len(found.layers) <= 24 else None)
    figure.update_yaxes(rangemode="tozero")
    return figure


def clickable_heatmap(result: TraceResult, *, zmax: float, dark: bool) -> go.Figure:
    """The library's heatmap with margins of its own, so that it is known where a layer's column lies at any width.

    The colour bar lies above the map: beside it, it would leave a phone no room for the layers.

    Args:
        zmax: top of the colour scale, which several maps share.
    """
    figure = trace_heatmap(result, dark=dark, scale="rome", zmax=zmax)
    words = figure.data[0].colorbar.title.text.replace("<br>", " ")
    bar = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "len": 0.6, "thickness": 9}
    bar |= {"xpad": 0, "ypad": 5}
    figure.data[0].colorbar.update(bar | {"title": {"text": words, "side": "top", "font": {"size": 12}}})
    ink = "#dfe6ec" if dark else "#2b333b"  # the theme's own grey is too faint for small print
    left = 40 + max(map(_pixels, token_labels(result)))
    margin = {"t": TOP, "r": RIGHT, "b": BOTTOM, "l": left, "pad": 0, "autoexpand": False}
    figure.update_layout(title=None, margin=margin, height=TOP + BOTTOM + 28 * len(result.tokens), font_color=ink)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(tickfont_color=ink, title_font_color=ink, title_standoff=12, automargin=False)
    return figure


def _pixels(label: str) -> int:
    """About how wide a tick label is at 12 px: Chinese characters are as wide as they are high."""
    return round(sum(13 if unicodedata.east_asian_width(letter) in "WF" else 7.2 for letter in label))
