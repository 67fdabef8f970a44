"""Line charts by layer: what a lens reads, and what cut attention costs."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from app.language.say import said, say
from app.shared.plots import LINES
from tracing.plots import colours

if TYPE_CHECKING:
    from tracing.lenses.knockout import KnockoutResult
    from tracing.lenses.logit import LensResult


def lens_lines(results: Sequence[LensResult], *, dark: bool) -> go.Figure:
    """Probability of each followed word at the last token by layer; with edits a second, dotted line of its colour."""
    figure = go.Figure()
    for result, dash, name in zip(results, ("solid", "dot"), ("", say(", edited")), strict=False):
        for index, (word, (colour, _, symbol)) in enumerate(zip(result.words, LINES, strict=False)):
            shown = f"p({html.escape(word)}){name}"
            figure.add_scatter(
                y=result.probability(index)[-1],
                name=shown,
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 7},
                hovertemplate=say("layer %{{x}}<br>{shown} %{{y:.3f}}<extra></extra>", shown=shown),
            )
    figure.update_yaxes(range=[-0.02, 1.02])
    return _by_layer(figure, say("Layer"), say("Probability read by the lens"), dark)


def knockout_lines(result: KnockoutResult, read: Mapping[str, str], *, dark: bool) -> go.Figure:
    """Relative change of the answer's probability by layer, a line for what the last token may not read.

    Args:
        read: plain words for the last part of an edge set's name.
    """
    figure = go.Figure()
    for name, change, (colour, dash, symbol) in zip(result.edges, result.change, LINES, strict=False):
        what = said(read.get(name.rpartition(" ")[2], name))
        shown = say("not reading {what}", what=what)
        figure.add_scatter(
            y=100 * change,
            name=html.escape(shown),
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7},
            hovertemplate=say("layer %{{x}}<br>{shown}: %{{y:.1f}} %<extra></extra>", shown=html.escape(shown)),
        )
    title = say("Layer") if result.window == 1 else say("Layer (centre of {window} layers)", window=result.window)
    return _by_layer(figure, title, say("Change of p({answer}), %", answer=html.escape(result.answer)), dark)


def _by_layer(figure: go.Figure, x_title: str, y_title: str, dark: bool) -> go.Figure:
    ink = colours.ink(dark)
    figure.update_layout(
        height=330,
        margin={"t": 10, "r": 10, "b": 50, "l": 60},
        font_color=ink,
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "font": {"color": ink}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=True,
    )
    for axis, title in ((figure.layout.xaxis, x_title), (figure.layout.yaxis, y_title)):
        axis.update(title={"text": title, "font": {"color": ink}}, tickfont_color=ink, fixedrange=True)
    return figure
