"""The map of one trace: coloured cells to click, an outline around the chosen layer, one sentence for those who cannot
see it, and the same numbers as a table.

Streamlit rebuilds a figure that has changed in any way, and loses clicks meanwhile.  So the figure of a trace never
changes: the outline that follows the layer is a style over it.  The plot's margins are fixed, so that the place of a
layer's column is known at any width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.session import state
from app.shared.wording import visible
from tracing.plots.colours import outline

if TYPE_CHECKING:
    import pandas as pd

    from tracing import TraceResult

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
    result = result.own_words()
    name = f"map_{key}_{result.config.site}_{result.measure}"
    dark = st.context.theme.type == "dark"
    from app.shared.plots import clickable_heatmap

    figure = clickable_heatmap(result, zmax=zmax, dark=dark)
    left, right = figure.layout.margin.l, figure.layout.margin.r
    st.html(
        OUTLINE.format(
            key=name,
            colour=outline(dark),
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
        on_select=lambda: state.pick_from_map(name, result.n_layers, result.subject_span),
        selection_mode="points",
        # Two quick clicks are two clicks; a double click would only undo the first.
        config={"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1},
        alt=description(result),
    )


def description(result: TraceResult) -> str:
    """The map in one sentence, for those who cannot see it."""
    largest, last, measure = result.largest(), result.last_subject(), result.measure.replace("_", " ")
    at_last = "" if last is None else f" At the last subject token it is {last.effect:.2f}, at layer {last.layer}."
    return (
        f"Causal trace of {len(result.tokens)} tokens by {result.n_layers} layers. Before the last token the largest "
        f"effect, {largest.effect:.2f} by {measure}, is at {visible(largest.token)}, layer {largest.layer}.{at_last}"
    )


def table(key: str, result: TraceResult) -> None:
    """The numbers of the map; the column of the chosen cell is the layer."""
    from tracing.measures import UNITS

    result = result.own_words()
    name = f"table_{key}_{result.config.site}_{result.measure}"
    st.dataframe(
        effect_table(result),
        key=name,
        hide_index=True,
        on_select=lambda: state.pick_from_table(name, result.subject_span),
        selection_mode="single-cell",
        alt=f"Indirect effect by token and layer, {result.config.site}",
        height="content",
        column_config={
            "token": st.column_config.TextColumn(width=92, pinned=True),
            **{str(layer): st.column_config.NumberColumn(format="%.3f", width=52) for layer in range(result.n_layers)},
        },
    )
    unit = UNITS[result.measure]
    st.caption(
        f"Mean indirect effect, in units of {unit}. Move with the arrow keys: the column sets the layer, a row of the "
        "subject sets the token to edit at."
    )


def effect_table(result: TraceResult) -> pd.DataFrame:
    """One row per token, one column per layer, named by its number."""
    import pandas as pd

    from tracing.plots.labels import token_labels

    effect = result.indirect_effect.round(4) + 0.0  # adding zero turns -0.0 into 0.0
    frame = pd.DataFrame(effect, columns=[str(layer) for layer in range(result.n_layers)])
    frame.insert(0, "token", token_labels(result))
    return frame
