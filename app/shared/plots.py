"""Figures that belong to the page alone."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from app.language.say import said, say
from tracing.plots import colours, labels
from tracing.plots.maps import trace_heatmap

if TYPE_CHECKING:
    from app.every_layer import EveryLayer
    from tracing import TraceResult

TOP, RIGHT, BOTTOM = 50, 8, 40
"""Pixels around the cells of a map; above them lies the colour bar."""
SECOND_LINE = 18
"""Pixels more above a map whose colour bar says two things."""
ROW, LOWEST_ROW, ROOM = 28, 18, 330
"""Pixels of a row, of the lowest one, and of all rows of a map that fits on one screen."""
BACKGROUND = {False: "#ffffff", True: "#0f1419"}
"""The page's own, light and dark: what cells fade into."""
BLANK = {False: "#eef2f5", True: "#1b232b"}
"""Cells of a map that is not there yet."""
BAR: dict[str, Any] = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
BAR |= {"len": 1, "thickness": 9, "xpad": 0, "ypad": 4}
"""A colour bar above its map and as wide as it: beside it, a phone would have no room for the layers."""
Marks = Literal["fade", "dots", "none"]
"""How a map shows which cells are not significant."""
# Okabe and Ito's colours, told apart by colour-blind readers too; dashes and marks tell them apart without any colour.
LINES = (
    ("#0072b2", "solid", "circle"),
    ("#d55e00", "dot", "square"),
    ("#009e73", "dash", "diamond"),
    ("#cc79a7", "dashdot", "triangle-up"),
    ("#e69f00", "longdash", "x"),
)
"""(colour, dash, mark) of the scores, in their order."""


@dataclass(frozen=True, eq=False)
class EffectMap:
    """A map of effects to draw."""

    rows: Sequence[str]
    """Labels: tokens, or kinds of tokens."""
    effect: Sequence[Sequence[float]]
    """[row][layer]; NaN where it was not measured."""
    hover: Sequence[Sequence[str]]
    """[row][layer], what a cell says."""
    site: str
    measure: str
    """What the colours mean."""
    marked: NDArray[np.bool_] | None = None
    """[row, layer], where the interval includes 0."""
    window: int = 1
    """Layers restored together."""


def every_layer_figure(result: EveryLayer, *, dark: bool = False) -> go.Figure:
    """The indirect effect at each layer (bars) and the scores of the same edit there (lines), from 0 to 1."""
    ink = colours.ink(dark)
    bars = go.Bar(
        x=result.layers,
        y=result.effect,
        name=say("trace: indirect effect"),
        marker_color="#5b6b7a" if dark else "#c3ccd4",
        hovertemplate=say("layer %{x}<br>indirect effect %{y:.3f}<extra></extra>"),
    )
    figure = go.Figure(bars)
    measured = {name: values for name, values in result.scores.items() if any(value is not None for value in values)}
    styles = dict(zip(result.scores, itertools.cycle(LINES)))
    for name, values in measured.items():
        colour, dash, symbol = styles[name]
        figure.add_scatter(
            x=result.layers,
            y=values,
            name=say("edit: {name}", name=said(name)),
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8},
            hovertemplate=say("layer %{{x}}<br>{name} %{{y:.2f}}<extra></extra>", name=said(name)),
        )
    figure.update_layout(
        height=380,
        margin={"t": 10, "r": 10, "b": 50, "l": 55},
        font_color=ink,
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "font": {"color": ink}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    for axis, title in ((figure.layout.xaxis, say("Layer")), (figure.layout.yaxis, say("Share, or probability"))):
        axis.update(title={"text": title, "font": {"color": ink}}, tickfont_color=ink, fixedrange=True)
    figure.update_xaxes(dtick=1 if len(result.layers) <= 24 else None)
    figure.update_yaxes(rangemode="tozero")
    return figure


def clickable_heatmap(
    result: TraceResult,
    *,
    zmax: float,
    two_sided: bool,
    dark: bool,
    marks: Marks = "fade",
    title: str = "",
    labelled: bool = True,
) -> go.Figure:
    """The library's heat map with fixed margins, so that the place of a layer's column is known at any width.

    Args:
        zmax: top of the colour scale, which several maps share.
        two_sided: whether that scale goes as far below zero.
        title: above the colour bar, by default what the colours mean.
        labelled: whether the rows are named; of several maps side by side the first one is.
    """
    figure = trace_heatmap(result, dark=dark, scale="rome", zmax=zmax)
    cells, targets = figure.data
    scale = colours.heat_scale(result.config.site, two_sided=two_sided, dark=dark)
    words = title or said(labels.bar_words(result.own_words(), two_sided=False)[0])
    cells.update(zmin=-zmax if two_sided else 0.0, zmax=zmax, colorscale=scale)
    cells.colorbar.update(BAR | {"title": {"text": words, "side": "top", "font": {"size": 12}}, "nticks": 5})
    if marks != "dots":
        cells.text = None
    if marks == "fade":
        _fade(figure, result.uncertain(), dark)
    _readable_hover(targets, result)
    names = labels.token_labels(result) if labelled else []
    _place(figure, names, len(result.tokens), result.n_layers, 32 if title == "" else 8, dark)
    ink = colours.ink(dark)
    shown = {"bgcolor": BACKGROUND[dark], "bordercolor": ink, "align": "left", "font": {"size": 13, "color": ink}}
    figure.update_layout(hoverlabel=shown)
    _below_ticks(figure)
    return figure


def blank_heatmap(names: Sequence[str], n_layers: int, dark: bool) -> go.Figure:
    """The map before there is one: pale cells where those of these tokens will be.

    With it the browser reads the code that draws charts before the first trace is run.
    """
    pale = BLANK[dark]
    z = np.zeros((len(names), n_layers))
    cells = go.Heatmap(z=z, colorscale=[(0, pale), (1, pale)], showscale=False, hoverinfo="skip", xgap=1, ygap=1)
    figure = go.Figure([cells])
    fixed = {"fixedrange": True, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**fixed, title="Layer", range=[-0.5, n_layers - 0.5])
    rows = {"tickvals": list(range(len(names))), "ticktext": [html.escape(name) for name in names]}
    figure.update_yaxes(**fixed, **rows, range=[len(names) - 0.5, -0.5])
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    _place(figure, names, len(names), n_layers, 32, dark)
    _below_ticks(figure)
    return figure


def _place(figure: go.Figure, names: Sequence[str], n_tokens: int, n_layers: int, at_most: int, dark: bool) -> None:
    """Give a map its margins, height and ticks; names of rows are given where they are shown."""
    ink, left = colours.ink(dark), 14 + max(map(_pixels, names), default=0)
    row = min(ROW, max(LOWEST_ROW, ROOM // n_tokens))
    margin = {"t": TOP, "r": RIGHT, "b": BOTTOM, "l": left, "pad": 0, "autoexpand": False}
    figure.update_layout(title=None, margin=margin, height=TOP + BOTTOM + row * n_tokens, font_color=ink)
    ticks = every_layer_ticks(n_layers, at_most)
    figure.update_xaxes(tickvals=ticks, ticktext=list(map(str, ticks)))
    figure.update_yaxes(title=None, showticklabels=bool(names))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(tickfont_color=ink, title_font_color=ink, title_standoff=12, automargin=False)


def every_layer_ticks(n_layers: int, at_most: int) -> list[int]:
    """Layers to label: every one, every second, every fourth and so on, without a gap at the end."""
    step = next(
        step for step in (1, 2, 4, 5, 10, 20, 50, n_layers) if -(-n_layers // step) <= at_most / (1 + (step == 1))
    )
    return list(range(0, n_layers, step))


def _fade(figure: go.Figure, faded: NDArray[np.bool_], dark: bool) -> None:
    """Lay a veil of the page's own colour over some cells, [pos, layer]."""
    if faded.any():
        veil = BACKGROUND[dark]
        figure.add_heatmap(
            z=np.where(faded, 1.0, np.nan), colorscale=[(0, veil), (1, veil)], opacity=0.7, showscale=False,
            hoverinfo="skip", xgap=1, ygap=1,
        )  # fmt: skip


def _without_minus(cell: Any) -> Any:
    """A rounded number that is 0 has no sign."""
    return cell[1:] if isinstance(cell, str) and re.fullmatch(r"-0\.0+", cell) else cell


def _readable_hover(targets: go.Scatter, result: TraceResult) -> None:
    """What a cell says: where it is, its effect with interval, and the probabilities it lies between."""
    targets.customdata = [[_without_minus(cell) for cell in row] for row in targets.customdata]
    number = " %{customdata[3]}"
    restored = targets.hovertemplate.rpartition("<br>")[2].removesuffix("<extra></extra>").removesuffix(number)
    targets.hovertemplate = say(
        "<b>%{{customdata[1]}}</b>, layer %{{customdata[0]}}<br>indirect effect <b>%{{customdata[2]}}</b>"
        "<br>95 % interval %{{customdata[4]}} to %{{customdata[5]}}"
        "<br>{restored} (of {corrupted:.4f} corrupted, {clean:.4f} clean)<extra></extra>",
        restored=said(restored) + number,
        corrupted=float(np.mean(result.corrupted)),
        clean=float(result.clean),
    )


def _below_ticks(figure: go.Figure) -> None:
    """The title of the layers below their numbers: Plotly sets a short one between two numbers of the middle."""
    title = figure.layout.xaxis.title
    place = {"x": 0.5, "xref": "paper", "y": 0, "yref": "paper", "yanchor": "top", "yshift": -20, "showarrow": False}
    figure.add_annotation(text=said(title.text), font_color=title.font.color, **place)
    title.text = None


def _pixels(label: str) -> int:
    """About how wide a tick label is at 12 px: Chinese characters are as wide as they are high."""
    return round(sum(13 if unicodedata.east_asian_width(letter) in "WF" else 7.2 for letter in label))


def spark(values: Sequence[float]) -> go.Figure:
    """A line without axes, such as a loss by step."""
    figure = go.Figure(go.Scatter(y=values, mode="lines", line={"color": LINES[0][0], "width": 2}))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    clear = "rgba(0,0,0,0)"
    figure.update_layout(height=60, margin=dict.fromkeys("trbl", 4), paper_bgcolor=clear, plot_bgcolor=clear)
    return figure


def effect_maps(maps: Sequence[EffectMap], *, dark: bool) -> list[go.Figure]:
    """Several maps of effects [row, layer], one figure each, all on one colour scale.

    They share the paper's purple, green or red where all are of one kind of state, and a scale of two sides where one
    of them has noticeable negative effects.
    """
    grids = [np.array(one.effect, dtype=np.float32) for one in maps]
    top = max(max((float(np.nanmax(np.abs(z))) for z in grids if not np.isnan(z).all()), default=0.0), 1e-6)
    two_sided = any(labels.has_two_sides(z) for z in grids if not np.isnan(z).all())
    sites = {one.site for one in maps}
    scale = colours.heat_scale(sites.pop() if len(sites) == 1 else None, two_sided=two_sided, dark=dark)
    return [
        _effect_map(one, z, -top if two_sided else 0.0, top, scale, dark) for one, z in zip(maps, grids, strict=True)
    ]


def _effect_map(one: EffectMap, z: NDArray[np.float32], low: float, high: float, scale: Any, dark: bool) -> go.Figure:
    ink = colours.ink(dark)
    marked = np.zeros(z.shape, dtype=bool) if one.marked is None else np.asarray(one.marked)
    title = {
        "text": one.measure + (f"<br>{said(labels.MARKED)}" if marked.any() else ""),
        "side": "top",
        "font": {"size": 12, "color": ink},
    }
    figure = go.Figure(
        go.Heatmap(
            z=z,
            zmin=low,
            zmax=high,
            colorscale=scale,
            xgap=1,
            ygap=1,
            customdata=[[html.escape(text) for text in row] for row in one.hover],
            hovertemplate="%{customdata}<extra></extra>",
            text=np.where(marked, labels.DOT, "").tolist(),
            texttemplate="%{text}",
            colorbar=BAR | {"title": title, "tickfont": {"color": ink}},
        )
    )
    ticks, rows = every_layer_ticks(z.shape[1], 32), list(range(len(z)))
    shared = {"fixedrange": True, "showgrid": False, "zeroline": False, "tickfont_color": ink, "title_font_color": ink}
    shared |= {"automargin": False, "title_standoff": 12}
    axis = say("Layer") if one.window == 1 else say("Layer (centre of {window} layers)", window=one.window)
    figure.update_xaxes(title=axis, tickvals=ticks, ticktext=[str(tick) for tick in ticks], **shared)
    names = [html.escape(label) for label in one.rows]
    figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(rows) - 0.5, -0.5], **shared)
    left, top = 24 + max(map(_pixels, one.rows), default=0), TOP + (SECOND_LINE if marked.any() else 0)
    figure.update_layout(
        height=top + BOTTOM + ROW * len(rows),
        margin={"t": top, "r": RIGHT, "b": BOTTOM, "l": left, "pad": 0, "autoexpand": False},
        font_color=ink,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    _below_ticks(figure)
    return figure
