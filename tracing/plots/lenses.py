"""Figures of every lens: `..._chart` for the screen (Plotly), `..._figure` for print (Matplotlib).

Each is a function of one result.  Quantities with a natural zero are drawn around it; probabilities go from 0 to 1.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tracing.plots import labels
from tracing.plots.colours import (
    BY_SITE,
    ERROR_BARS,
    ESTIMATE_IN_PRINT,
    LINES,
    PROBABILITY,
    PROBABILITY_IN_PRINT,
    TWO_SIDED,
)
from tracing.plots.sheet import FONT_SIZE, font_families, panel, sheet
from tracing.sites import SITE_NAMES
from tracing.tokens import token_label

if TYPE_CHECKING:  # these import torch
    from tracing.lenses.attribution import AttributionResult
    from tracing.lenses.knockout import KnockoutResult
    from tracing.lenses.logit import LensResult
    from tracing.lenses.paths import PathResult
    from tracing.types import TraceResult

Shown = Literal["probability", "difference"]


def lens_chart(result: LensResult, *, word: int = 0, show: Shown = "probability") -> go.Figure:
    """Every cell coloured by a followed word, with the lens's own first choice written into it.

    Args:
        word: 0 is the answer, 1 the target.
        show: the word's probability, or the log-probability of the answer less the target's.
    """
    values = result.difference() if show == "difference" else result.probability(word)
    size = float(np.abs(values).max()) or 1.0
    scale = (
        {"colorscale": TWO_SIDED, "zmin": -size, "zmax": size}
        if show == "difference"
        else {"colorscale": PROBABILITY, "zmin": 0.0, "zmax": 1.0}
    )
    top = [[token_label(cell[0]) for cell in row] for row in result.top_words]
    hover = [
        [_choices(cell, result.top_prob[pos, layer]) for layer, cell in enumerate(row)]
        for pos, row in enumerate(result.top_words)
    ]
    heat = go.Heatmap(
        z=values,
        text=[[html.escape(text) for text in row] for row in top],
        texttemplate="%{text}",
        customdata=hover,
        hovertemplate="layer %{x}<br>%{z:.4f}<br>%{customdata}<extra></extra>",
        colorbar={"title": {"text": _shown(result, word, show, screen=True)}, "thickness": 14},
        xgap=1,
        ygap=1,
        **scale,
    )
    title = f"{result.lens.capitalize()} lens of {result.model_name}"
    return _grid_layout(go.Figure(heat), result, result.n_layers, title)


def lens_figure(result: LensResult, *, word: int = 0, show: Shown = "probability", width_in: float = 5.5) -> Figure:
    """`lens_chart` for print, without the words in the cells."""
    values = result.difference() if show == "difference" else result.probability(word)
    return _map_figure(result, values, result.model_name, _shown(result, word, show), PROBABILITY_IN_PRINT, width_in)


def attribution_chart(result: AttributionResult) -> go.Figure:
    """The estimates by token and layer."""
    values = _no_heads(result.estimate)
    size = float(np.abs(values).max()) or 1.0
    heat = go.Heatmap(
        z=values,
        colorscale=TWO_SIDED,
        zmin=-size,
        zmax=size,
        hovertemplate="layer %{x}<br>estimate %{z:.4f} nats<extra></extra>",
        colorbar={"title": {"text": "Estimated effect<br>(nats of log p)"}, "thickness": 14},
        xgap=1,
        ygap=1,
    )
    title = f"Estimate, not exact: {SITE_NAMES[result.config.site].long}, log p({result.answer})"
    return _grid_layout(go.Figure(heat), result, result.n_layers, title)


def attribution_figure(result: AttributionResult, *, width_in: float = 3.25) -> Figure:
    """`attribution_chart` for print."""
    label = f"estimated effect on log p({token_label(result.answer)}), nats"
    return _map_figure(result, _no_heads(result.estimate), result.model_name, label, ESTIMATE_IN_PRINT, width_in)


def heads_chart(result: TraceResult | AttributionResult, pos: int = -1) -> go.Figure:
    """Heads (rows) by layer at one position, by default the prompt's last: effects of a trace, or estimates."""
    values, label = _heads(result, pos)
    size = float(np.nanmax(np.abs(values))) or 1.0
    heat = go.Heatmap(
        z=values.T,
        colorscale=TWO_SIDED,
        zmin=-size,
        zmax=size,
        hovertemplate="layer %{x}, head %{y}<br>%{z:.4f}<extra></extra>",
        colorbar={"title": {"text": label}, "thickness": 14},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat).update_xaxes(title_text="Layer").update_yaxes(title_text="Head", autorange="reversed")
    return figure.update_layout(title={"text": html.escape(f"Heads at {labels.token_labels(result)[pos]}")})


def heads_figure(result: TraceResult | AttributionResult, pos: int = -1, *, width_in: float = 3.25) -> Figure:
    """`heads_chart` for print."""
    values, label = _heads(result, pos)
    names = [str(head) for head in range(values.shape[1])]
    figure, (axes,) = sheet(width_in, 0.75 + 0.165 * len(names), 1)
    fonts = font_families([label, result.model_name])
    panel(figure, axes, values.T, BY_SITE["attn_heads"], names, label, fonts, values)
    axes.set_xlabel(f"layer of {result.model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    axes.set_ylabel("head", fontsize=FONT_SIZE, fontfamily=fonts)
    return figure


def knockout_chart(result: KnockoutResult) -> go.Figure:
    """The answer's relative change by layer, a line an edge set."""
    figure = go.Figure()
    for name, change, colour in zip(result.edges, result.change, LINES * 8, strict=False):
        figure.add_scatter(y=100 * change, name=html.escape(name), line={"color": colour}, mode="lines+markers")
    figure.update_xaxes(title_text=_window_title(result.window))
    figure.update_yaxes(title_text=html.escape(f"Change of p({token_label(result.answer)}) (%)"))
    return figure.update_layout(title={"text": html.escape(f"Attention edges cut in {result.model_name}")})


def knockout_figure(result: KnockoutResult, *, width_in: float = 3.25) -> Figure:
    """`knockout_chart` for print, as Geva et al. 2023 draw it."""
    figure, (axes,) = sheet(width_in, 0.7 * width_in, 1)
    fonts = font_families([result.answer, result.model_name, *result.edges])
    for name, change, colour in zip(result.edges, result.change, LINES * 8, strict=False):
        axes.plot(range(result.n_layers), 100 * change, label=name, color=colour, linewidth=1)
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.set_xlabel(f"{_window_title(result.window)} in {result.model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    axes.set_ylabel(f"change of p({token_label(result.answer)}), %", fontsize=FONT_SIZE, fontfamily=fonts)
    axes.legend(prop={"family": fonts, "size": FONT_SIZE - 1}, frameon=False)
    _small_ticks(axes, fonts)
    return figure


def paths_chart(result: PathResult) -> go.Figure:
    """Effect of the sender through each receiver, with 95 % intervals over noise samples."""
    frame = result.to_frame()
    error = {"type": "data", "array": (frame["effect_high"] - frame["effect"]).fillna(0.0), "color": ERROR_BARS}
    bars = go.Bar(x=frame["receiver"], y=frame["effect"], error_y=error, marker={"color": LINES[0]})
    figure = go.Figure(bars).update_xaxes(title_text="Receiver (site, layer @ position)")
    figure.update_yaxes(title_text=html.escape(f"Effect on p({token_label(result.answer)})"))
    return figure.update_layout(title={"text": html.escape(f"Paths from {result.sender} in {result.model_name}")})


def paths_figure(result: PathResult, *, width_in: float = 5.5) -> Figure:
    """`paths_chart` for print."""
    frame = result.to_frame()
    figure, (axes,) = sheet(width_in, 2.2, 1)
    fonts = font_families([result.answer, result.model_name])
    error = (frame["effect_high"] - frame["effect"]).fillna(0.0)
    places = list(range(len(frame)))
    axes.bar(places, frame["effect"], yerr=error, color=LINES[0], ecolor="0.3", error_kw={"linewidth": 0.6})
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.set_xticks(places, list(frame["receiver"]), rotation=90)
    axes.set_ylabel(f"effect on p({token_label(result.answer)})", fontsize=FONT_SIZE, fontfamily=fonts)
    axes.set_title(f"paths from {result.sender} in {result.model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    _small_ticks(axes, fonts)
    return figure


def _small_ticks(axes: Axes, fonts: list[str]) -> None:
    axes.tick_params(labelsize=FONT_SIZE - 1, length=2)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_fontfamily(fonts)


def _grid_layout(figure: go.Figure, result: labels.Prompted, n_layers: int, title: str) -> go.Figure:
    """Tokens as rows, the first on top, and layers as columns."""
    names = [html.escape(name) for name in labels.token_labels(result)]
    ticks = labels.layer_ticks(n_layers, 24)
    figure.update_xaxes(title_text="Layer", tickvals=ticks, ticktext=[str(layer) for layer in ticks])
    figure.update_yaxes(
        title_text="Token (* subject)", tickvals=list(range(len(names))), ticktext=names, autorange="reversed"
    )
    return figure.update_layout(title={"text": html.escape(title)}, height=120 + max(24 * len(names), 120))


def _map_figure(
    result: labels.Prompted,
    values: NDArray[np.float32],
    model_name: str,
    bar_label: str,
    colour_map: str,
    width_in: float,
) -> Figure:
    names = labels.token_labels(result)
    figure, (axes,) = sheet(width_in, 0.75 + 0.165 * len(names), 1)
    fonts = font_families([*names, bar_label, model_name])
    panel(figure, axes, values, colour_map, names, bar_label, fonts, values)
    axes.set_xlabel(f"layer of {model_name}", fontsize=FONT_SIZE, fontfamily=fonts)
    return figure


def _heads(result: TraceResult | AttributionResult, pos: int) -> tuple[NDArray[np.float32], str]:
    """([layer, head] at one position, label of the colour bar)."""
    estimated = hasattr(result, "estimate")
    values = result.estimate if estimated else result.indirect_effect  # type: ignore[union-attr]
    if values.ndim != 3:
        raise ValueError(f"the site is {result.config.site!r}, which has no heads; trace or estimate 'attn_heads'")
    if not -len(result.tokens) <= pos < len(result.tokens):
        raise ValueError(f"position {pos} is outside the prompt's {len(result.tokens)} tokens")
    answer = token_label(result.answer.strip())
    label = f"estimated effect on log p({answer}), nats" if estimated else f"effect on p({answer})"
    return values[pos], label


def _no_heads(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.ndim != 2:
        raise ValueError("estimates of heads have a map for each position; draw it with heads_chart or heads_figure")
    return values


def _shown(result: LensResult, word: int, show: Shown, *, screen: bool = False) -> str:
    followed = [token_label(text) for text in result.words]
    text = f"log p({followed[0]}) - log p({followed[1]})" if show == "difference" else f"p({followed[word]})"
    return html.escape(text) if screen else f"{result.lens} lens, {text}"


def _choices(words: Sequence[str], probabilities: NDArray[np.float32]) -> str:
    """The lens's first choices with their probabilities, for the hover text."""
    return "<br>".join(
        f"{html.escape(token_label(text))} {probability:.3f}"
        for text, probability in zip(words, probabilities, strict=True)
    )


def _window_title(window: int) -> str:
    return "layer" if window == 1 else f"centre of {window} layers"
