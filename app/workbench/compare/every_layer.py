"""The tab "Every layer": does the layer the trace points at edit better than others?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server.job import Job
from app.server.jobs import Runner
from app.session import state
from app.session.asks import EditAsk, LayersAsk
from app.session.session import session
from app.shared.tables import headings
from app.shared.waiting import Waiting, cancel
from app.shared.wording import plain, short
from app.workbench import work

if TYPE_CHECKING:
    from app.every_layer import EveryLayer
    from app.workflow import Located


def draw(runner: Runner, ask: EditAsk | None, trace: Job | None) -> list[Waiting]:
    """Button, progress and figure; nothing can be started before there is a trace."""
    st.caption(
        say(
            "The same edit is computed and scored at every layer, one after the other; nothing stays applied. Over "
            "many facts, where a fact is traced to says next to nothing about where an edit works (Hase et al. 2023)."
        )
    )
    if ask is None or trace is None or trace.state != "done":
        st.caption(say("Run a trace first: the edits are shown beside it."))
        return []
    located: Located = trace.result
    if "layer" not in dict(ask.config):
        st.caption(say("The chosen method does not take a layer; choose another method."))
        return []
    traced = session().trace_ask
    config = tuple(pair for pair in ask.config if pair[0] != "layer")
    layers_ask = LayersAsk(
        EditAsk(ask.model, ask.prompt, ask.subject, ask.answer, ask.new, ask.method, config, ask.active), traced
    )
    ours = (traced.prompt, traced.subject) == (ask.prompt, ask.subject)
    if state.pressed("layers") and ours:
        session().layers_ask = layers_ask
        state.ask_anew(layers_ask.key)
    last_ask = session().layers_ask
    job = None
    if last_ask is not None:
        job = state.job_for(
            runner, last_ask.key, later("Editing every layer"), partial(work.every_layer, last_ask, located)
        )
    if job is not None and job.live:
        cancel(runner, job, "cancel_layers")
        return [Waiting(job, st.empty())]
    st.button(
        say("Edit every layer"),
        key="edit_layers",
        icon=":material/stacked_line_chart:",
        disabled=not ours,
        help=None if ours else say("Trace this prompt first."),
        on_click=state.press,
        args=("layers",),
    )
    if job is not None:
        _result(job, stale=last_ask != layers_ask)
    return []


def _result(job: Job, stale: bool) -> None:
    if job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(say("Cancelled. Nothing is shown of layers that were not all edited."), icon=":material/block:")
    elif job.state == "done":
        if stale:
            st.warning(say("The inputs have changed since these layers were edited."), icon=":material/history:")
        _figure(job.key, job.result)


def _figure(key: str, result: EveryLayer) -> None:
    import pandas as pd

    from app.shared.plots import every_layer_figure

    figure = every_layer_figure(result, dark=st.context.theme.type == "dark")
    config = {"displayModeBar": False, "doubleClick": False}
    st.plotly_chart(figure, key=f"layers_{key}", config=config, alt=summary(result))
    st.caption(plain(summary(result)))
    frame = pd.DataFrame({"layer": result.layers, "trace effect": result.effect, **result.scores})
    with st.expander(say("Numbers")):
        st.dataframe(
            frame.round(4),
            hide_index=True,
            key=f"layers_table_{key}",
            alt=say("Trace effect and scores by layer"),
            column_config=headings(("layer", "trace effect"), {name: said(name) for name in result.scores}),
        )
    for layer, reason in result.failures.items():
        st.caption(plain(say("Layer {layer} could not be edited: {reason}.", layer=layer, reason=said(reason))))


def summary(result: EveryLayer) -> str:
    """The figure in words: the best layer of the trace, that of the edit, and their correlation."""
    from app.every_layer import NEW_ANSWER

    r, n = result.correlation(NEW_ANSWER)
    traced = result.layers[max(range(len(result.layers)), key=result.effect.__getitem__)]
    reached = [value if value is not None else -1.0 for value in result.scores[NEW_ANSWER]]
    edited = result.layers[max(range(len(result.layers)), key=reached.__getitem__)]
    together = (
        say("no correlation can be given, since one of them does not vary") if math.isnan(r) else f"r = {short(r)}"
    )
    return say(
        "The trace is strongest at layer {traced}, the edit reaches the highest p(new answer) at "
        "layer {edited}. Trace effect and p(new answer) over n = {n} layers: {together}. One "
        "fact says little.",
        traced=traced,
        edited=edited,
        n=n,
        together=together,
    )
