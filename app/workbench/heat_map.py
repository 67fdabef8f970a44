"""The map of one trace: coloured cells to click, an outline around the chosen layer, one sentence for those who cannot
see it, and the same numbers as a table.

Streamlit rebuilds a figure that has changed in any way, and loses clicks meanwhile.  So the figure of a trace never
changes: the outline that follows the layer is a style over it.  The plot's margins are fixed, so that the place of a
layer's column is known at any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.language.say import ENGLISH, current, later, said, say
from app.session import state
from app.shared.wording import visible
from tracing.plots.colours import BELOW_ZERO, outline
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

    from app.first_look import FirstLook
    from app.shared.plots import Marks
    from tracing import TraceResult

POSITIVE, NEGATIVE_RGB = "35, 139, 69", "224, 130, 20"
"""Red, green and blue of the shades of a table."""
OUTLINE = """<style>
.st-key-{key} [data-testid=stPlotlyChart] {{ position: relative }}
.st-key-{key} [data-testid=stPlotlyChart]::after {{ content: ""; position: absolute; pointer-events: none;
  box-sizing: border-box; border: 3px solid {colour}; border-radius: 2px; top: {top}px; bottom: {bottom}px;
  left: calc({left}px + {layer} * (100% - {sides}px) / {layers}); width: calc((100% - {sides}px) / {layers}) }}
</style>"""
FIGURES = 200
"""Figures kept for all sessions, about 100 kB each."""
MARKS: dict[Marks, str] = {"fade": later("faded"), "dots": later("with a dot"), "none": later("like all others")}
"""Ways to show cells that are not significant, as a reader calls them."""


def draw(
    key: str, result: TraceResult, zmax: float, *, two_sided: bool, title: str = "", labelled: bool = True
) -> None:
    """The map.

    Args:
        key: of the trace; the map's own name is made from it.
        zmax: top of the colour scale, which several maps share.
        two_sided: whether that scale goes as far below zero.
        title: above the colour bar of one of several maps.
        labelled: whether the tokens are named.
    """
    marks = marked()
    name = f"map_{key}_{result.config.site}_{result.measure}_{marks}_{'one' if title else 'alone'}"
    dark = st.context.theme.type == "dark"
    figure = _figure(result, zmax, two_sided, dark, marks, title, labelled, current())
    result = result.own_words()
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


def blank(look: FirstLook, n_layers: int) -> None:
    """The place of the map before a trace, with the prompt's tokens."""
    from app.shared.plots import blank_heatmap
    from tracing.plots.labels import token_label

    start, stop = look.span
    names = [token_label(text) + "*" * (start <= at < stop) for at, text in enumerate(look.tokens) if at >= look.lead]
    st.plotly_chart(
        blank_heatmap(names, n_layers, st.context.theme.type == "dark"),
        key="blank_map_chart",
        config={"displayModeBar": False, "staticPlot": True},
        alt=say(
            "The map of {tokens} tokens by {n_layers} layers will stand here.", tokens=len(names), n_layers=n_layers
        ),
    )


@lru_cache(maxsize=FIGURES)
def _figure(
    result: TraceResult,
    zmax: float,
    two_sided: bool,
    dark: bool,
    marks: Marks,
    title: str,
    labelled: bool,
    language: str,
) -> Any:
    """The Plotly figure, kept since each click draws the page, and to build it takes as long as the rest of it."""
    from app.shared.plots import clickable_heatmap

    return clickable_heatmap(
        result.own_words(), zmax=zmax, two_sided=two_sided, dark=dark, marks=marks, title=title, labelled=labelled
    )


def marked() -> Marks:
    """How cells that are not significant are shown: what the reader chose, which is drawn with the first whole map."""
    marks: Marks = st.session_state.get("marks", "fade")
    return marks


def legend(results: Sequence[TraceResult], two_sided: bool) -> str:
    """What colours, faded cells and the outline mean, in a line."""
    from tracing.plots.labels import NEGATIVE, measured

    main = results[0].own_words()
    sites = [SITE_NAMES[result.config.site].long for result in results]
    what = said(sites[0]) if len(sites) == 1 else say("state, MLP or attention output")
    windows = {result.config.window for result in results}
    window = max(windows)
    layers = say(" in {window} layers", window=window) if window > 1 else ""
    if len(windows) > 1:
        layers = say(" (MLP and attention in {window} layers)", window=window)
    words = [
        say(
            "Colour: how far {main} comes back where the {what} of one token is restored{layers}",
            main=said(measured(main)),
            what=what,
            layers=layers,
        )
    ]
    words += [f"{said(BELOW_ZERO)}: {said(NEGATIVE[main.measure])}"] if two_sided else []
    if any(result.uncertain().any() for result in results) and marked() != "none":
        mark = say("faded") if marked() == "fade" else say("dot")
        words.append(say("{mark}: not significant (95 % CI includes 0)", mark=mark))
    return say("; ").join([*words, say("outline: the layer to edit")]) + say(".")


def description(result: TraceResult) -> str:
    """The map in one sentence, for those who cannot see it."""
    largest, last, measure = result.largest(), result.last_subject(), said(result.measure.replace("_", " "))
    at_last = (
        ""
        if last is None
        else say(
            " At the last subject token it is {effect:.2f}, at layer {layer}.", effect=last.effect, layer=last.layer
        )
    )
    return say(
        "Causal trace of {tokens} tokens by {n_layers} layers. Before the last token the largest "
        "effect, {effect:.2f} by {measure}, is at {token}, layer {layer}.{at_last}",
        tokens=len(result.tokens),
        n_layers=result.n_layers,
        effect=largest.effect,
        measure=measure,
        token=visible(largest.token),
        layer=largest.layer,
        at_last=at_last,
    )


def table(key: str, result: TraceResult, zmax: float) -> None:
    """The numbers of the map, shaded; the column of the chosen cell is the layer."""
    from tracing.measures import UNITS

    result = result.own_words()
    name = f"table_{key}_{result.config.site}_{result.measure}"
    layers = [str(layer) for layer in range(result.n_layers)]
    st.dataframe(
        shaded(effect_table(result), layers, zmax),
        key=name,
        hide_index=True,
        on_select=lambda: state.pick_from_table(name, result.subject_span),
        selection_mode="single-cell",
        alt=say(
            "Indirect effect by token and layer, {site}",
            site=said(SITE_NAMES[result.config.site].long) if current() != ENGLISH else result.config.site,
        ),
        height="content",
        column_config={
            "token": st.column_config.TextColumn(said("token"), width=92, pinned=True),
            **{layer: st.column_config.NumberColumn(format="%.3f", width=52) for layer in layers},
        },
    )
    unit = said(UNITS[result.measure])
    st.caption(
        say(
            "Mean indirect effect, in units of {unit}. Move with the arrow keys: the column sets the "
            "layer, a row of the subject sets the token to edit at.",
            unit=unit,
        )
    )


def effect_table(result: TraceResult) -> pd.DataFrame:
    """One row per token, one column per layer, named by its number."""
    import pandas as pd

    from tracing.plots.labels import token_labels

    effect = result.indirect_effect.round(3) + 0.0  # adding zero turns -0.0 into 0.0
    frame = pd.DataFrame(effect, columns=[str(layer) for layer in range(result.n_layers)])
    frame.insert(0, "token", token_labels(result))
    return frame


def shaded(frame: pd.DataFrame, columns: list[str], highest: float) -> Styler:
    """A table whose numbers are shaded by their size, strongest at `highest`; the text stays readable on it."""

    def shade(value: float) -> str:
        share = min(1.0, abs(value) / highest) if highest and value == value else 0.0
        return f"background-color: rgba({POSITIVE if value >= 0 else NEGATIVE_RGB}, {0.55 * share:.3f})"

    return frame.style.map(shade, subset=columns)
