"""The map of one trace: coloured cells to click, an outline around the chosen layer, one sentence for those who cannot
see it, and the same numbers as a table.

Streamlit takes a figure with any change in it for another chart and builds it anew, and a click that falls into that
time is lost.  So the figure of a trace never changes: the outline that follows the layer is drawn over it by a style.
For this the plot's margins are fixed, since only then is it known where a layer's column lies at any width.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import streamlit as st

from app import state

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tracing import TraceResult

TOP, RIGHT, BOTTOM = 62, 10, 54
"""Pixels around the cells; above them lies the colour bar."""
OUTLINE = """<style>
.st-key-{key} [data-testid=stPlotlyChart] {{ position: relative }}
.st-key-{key} [data-testid=stPlotlyChart]::after {{ content: ""; position: absolute; pointer-events: none;
  box-sizing: border-box; border: 3px solid {colour}; border-radius: 2px; top: {top}px; bottom: {bottom}px;
  left: calc({left}px + {layer} * (100% - {sides}px) / {layers}); width: calc((100% - {sides}px) / {layers}) }}
</style>"""


def draw(key: str, result: TraceResult, zmax: float) -> None:
    """The map.

    Args:
        key: of the trace; the map's own name is made from it.
        zmax: top of the colour scale, which several maps share.
    """
    name = f"map_{key}_{result.config.site}"
    dark = st.context.theme.type == "dark"
    figure = _figure(result, zmax, dark)
    left, right = figure.layout.margin.l, figure.layout.margin.r
    st.html(
        OUTLINE.format(
            key=name,
            colour="#ff5cc8" if dark else "#d6249f",
            top=figure.layout.margin.t,
            bottom=figure.layout.margin.b,
            left=left,
            sides=left + right,
            layer=int(st.session_state.get("layer", 0)),
            layers=result.n_layers,
        )
    )
    st.plotly_chart(
        figure,
        key=name,
        on_select=lambda: state.pick_from_map(name, result.n_layers),
        selection_mode="points",
        # Two quick clicks are two clicks; a double click would only undo the first.
        config={"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1},
        alt=description(result),
    )


def _figure(result: TraceResult, zmax: float, dark: bool) -> go.Figure:
    """The library's heatmap, with the colour bar above it: beside it, it would leave a phone no room for the layers."""
    from tracing.labels import token_labels
    from tracing.plots import trace_heatmap

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


def description(result: TraceResult) -> str:
    """The map in one sentence, for those who cannot see it."""
    position, layer = result.peak()
    return (
        f"Causal trace of {len(result.tokens)} tokens by {result.n_layers} layers. At the last subject token the "
        f"strongest effect, {float(result.indirect_effect[position, layer]):.2f}, is at layer {layer}."
    )


def table(key: str, result: TraceResult) -> None:
    """The numbers of the map; the column of the chosen cell is the layer."""
    name = f"table_{key}_{result.config.site}"
    st.dataframe(
        effect_table(result),
        key=name,
        hide_index=True,
        on_select=lambda: state.pick_from_table(name),
        selection_mode="single-cell",
        alt=f"Indirect effect by token and layer, {result.config.site}",
        height="content",
        column_config={
            "token": st.column_config.TextColumn(width=92, pinned=True),
            **{str(layer): st.column_config.NumberColumn(format="%.3f", width=52) for layer in range(result.n_layers)},
        },
    )
    st.caption("Mean indirect effect. The arrow keys move the cell; its column becomes the layer.")


def effect_table(result: TraceResult) -> pd.DataFrame:
    """One row per token, one column per layer, named by its number."""
    import pandas as pd

    from tracing.labels import token_labels

    effect = result.indirect_effect.round(4) + 0.0  # adding zero turns -0.0 into 0.0
    frame = pd.DataFrame(effect, columns=[str(layer) for layer in range(result.n_layers)])
    frame.insert(0, "token", token_labels(result))
    return frame
