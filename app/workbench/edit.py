"""2 · Edit: the method and its settings, apply and undo, and what the edit did to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.language.say import said, say
from app.server import cache, limits
from app.server.job import Job
from app.server.jobs import Runner
from app.session import state
from app.session.asks import EditAsk
from app.session.form import Form
from app.session.session import session
from app.shared import style
from app.shared.tables import headings
from app.shared.waiting import Waiting, cancel
from app.shared.wording import duration, plain, probability, sentence
from app.workbench import ledger, place, settings

if TYPE_CHECKING:
    from editing import Diagnostic, Edit

PROBABILITIES = ("p(new) before", "p(new) after")
ONCE = 0.5
"""Seconds from which the second moment is shown apart from the edit; below, it was kept from an earlier edit."""
LEAST_TYPICAL = 2
"""Other edits of a layer from which their changes are shown beside a new one's."""
GENTLER = "alphaedit"
"""Offered when an edit disturbs much: it leaves the values of other keys unchanged."""


@dataclass(frozen=True)
class Places:
    """Where the buttons go that are drawn once the form has been read."""

    buttons: Any
    details: Any


def controls(form: Form, trace: Job | None) -> tuple[EditAsk | None, Places]:
    """Draw the layer and, once there is a trace, the method with its settings; the edit that Apply would compute."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.header(say("2 · Edit"), anchor=False, width="stretch")
        buttons, details = st.container(width="content"), st.container(width="content")
    if trace is not None and trace.state == "done":
        state.suggest_layer(trace.key, trace.result.start)
        session().method_shown = True
    # Once shown, the picker stays, also while another trace runs: what moves up would be drawn twice meanwhile.
    if not session().method_shown:
        place.suggest(form, trace, place.layer(form))
        return None, Places(buttons, details)
    left, right = st.columns([2, 3], gap="small", vertical_alignment="bottom")
    with left:
        layer = place.layer(form)
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="bottom"):
        method = settings.method(form.model)
        config = _advanced(method, layer)
    traced = place.traced(form, trace)
    with right:
        token = place.token(traced) if traced is not None and settings.places(method) else {}
    place.suggest(form, trace, layer)
    return EditAsk(
        form.model.key,
        form.prompt,
        form.subject,
        form.answer.strip(),
        form.new.strip(),
        method,
        tuple(sorted((config | token).items())),
        ledger.beside(form.prompt),
        bool(st.session_state.roll_back_broken),
        form.occurrence,
    ), Places(buttons, details)


def _advanced(method: str, layer: int) -> dict[str, Any]:
    """Draw the settings of the method."""
    with st.popover(say("Advanced"), icon=":material/tune:"):
        config = settings.config(method, layer)
        st.checkbox(
            say("Roll back an edit that breaks the model"),
            key="roll_back_broken",
            persist_state="session",
            help=say("The edit is discarded if it more than doubles the perplexity of ordinary text."),
        )
    return config


def draw(
    form: Form, runner: Runner, trace: Job | None, ask: EditAsk | None, edit: Job | None, places: Places
) -> list[Waiting]:
    """Draw the buttons and the result of the last edit."""
    with places.buttons:
        live = _actions(form, runner, ask, edit, ready=trace is not None and trace.state == "done")
    waiting = []
    if live and edit is not None:
        waiting = [Waiting(edit, st.empty())]
        places.details.empty()
    if edit is not None and edit.state == "cancelled":
        st.info(say("Cancelled. The model is unchanged."), icon=":material/block:")
    elif edit is not None and edit.state == "failed":
        if isinstance(session().edit_ask, EditAsk):  # `edits` tells what is wrong with a file
            st.error(plain(said(edit.error)), icon=":material/error:")
    elif edit is not None and edit.state == "done":
        _applied(edit.result, ask, places)
        _broken(edit.result)
    elif edit is None and ledger.active():
        last = cache.drawer().get(ledger.active()[-1])
        if last is not None:
            _applied(last, ask, places)
    return waiting


def _actions(form: Form, runner: Runner, ask: EditAsk | None, edit: Job | None, ready: bool) -> bool:
    """Draw Apply or Cancel, and Undo; whether an edit is being computed."""
    live = edit is not None and edit.live
    most = limits.most_edits()
    full = len(ledger.active()) >= most
    hint = say("At most {most} edits; undo one first.", most=most) if full else said(form.edit_problem) or None
    with st.container(horizontal=True, gap="xsmall"):
        if live and edit is not None:
            cancel(runner, edit, "cancel_edit")
        else:
            st.button(
                say("Apply edit"),
                key="apply_edit",
                icon=":material/edit:",
                type="secondary" if st.context.theme.type == "dark" or not ready else "primary",
                disabled=ask is None or not ready or full or bool(form.problems or form.edit_problem),
                help=hint,
                on_click=state.press,
                args=("apply",),
            )
        if ledger.active() and not live:
            st.button(say("Undo"), key="undo", icon=":material/undo:", on_click=ledger.undo)
    return live


def _applied(edit: Edit, ask: EditAsk | None, places: Places) -> None:
    made = session().edit_ask
    if ask is not None and not (_same(made, ask) if made is not None else _asked_for(edit, ask)):
        st.warning(
            say("The inputs have changed since this edit; the scores below are for the old ones."),
            icon=":material/history:",
        )
    numbers = {diagnostic.name: diagnostic for diagnostic in edit.diagnostics}
    seconds = edit.seconds or {}
    moments = seconds.get("moments", 0.0)
    new = edit.requests[0].target_new
    before_after = " → ".join(probability(numbers[name].value) for name in PROBABILITIES if name in numbers)
    shown = [
        (f"p({new})", before_after, ""),
        (say("change of the weight"), _percent(numbers.get("relative change")), _typical(edit)),
        (say("computed in"), duration(sum(seconds.values()) - moments), ""),
        (say("second moment"), duration(moments) if moments >= ONCE else "", say("once per model")),
    ]
    style.line(item for item in shown if item[1])
    if made is not None and session().replacing == made.key:
        st.caption(say("It stands in place of the earlier edit of this prompt."))
    for warning in edit.warnings:
        st.warning(plain(said(sentence(warning))), icon=":material/report:")
    if edit.warnings:
        _ways_out(edit)
    with places.details, st.popover(say("Details"), icon=":material/monitoring:"):
        _diagnostics(edit)


def _typical(edit: Edit) -> str:
    """The change of the weight in this session's other edits of the layer by the method; empty if there are few."""
    layer = getattr(edit.config, "layer", None)
    made = (cache.drawer().get(key) for key in session().edits_made)
    others = [
        diagnostic
        for other in made
        if other is not None and other.method == edit.method and other.digest != edit.digest
        if getattr(other.config, "layer", None) == layer
        for diagnostic in other.diagnostics
        if diagnostic.name == "relative change"
    ]
    if len(others) < LEAST_TYPICAL:
        return ""
    low, high = (pick(others, key=lambda diagnostic: diagnostic.value) for pick in (min, max))
    return say(
        "({low} to {high} in your {n} other edits of this layer)", low=_percent(low), high=_percent(high), n=len(others)
    )


def _broken(edit: Edit) -> None:
    """Why a broken edit is not active, and the button that activates it anyway."""
    from experiments.guard import why_broken

    made = session().edit_ask
    why = why_broken(edit.diagnostics)
    if not why or made is None or made.key in ledger.active():
        return
    st.error(plain(say("This edit is not active: {why}.", why=say("; ").join(map(said, why)))), icon=":material/block:")
    st.button(say("Make it active anyway"), key="keep_broken", icon=":material/edit:", on_click=ledger.keep_broken)


def _same(made: object, ask: EditAsk) -> bool:
    """Whether an edit was computed from the inputs as they are; which other edits are active does not count."""
    if not isinstance(made, EditAsk):
        return True
    return (made.prompt, made.subject, made.answer, made.new, made.method, made.config) == (
        ask.prompt,
        ask.subject,
        ask.answer,
        ask.new,
        ask.method,
        ask.config,
    )


def _asked_for(edit: Edit, ask: EditAsk) -> bool:
    """Whether a kept edit is of the fact and by the method that the form shows."""
    request = edit.requests[0]
    return (request.fact.prompt, request.target_new, edit.method) == (ask.prompt, ask.new, ask.method)


def _ways_out(edit: Edit) -> None:
    """Draw the buttons that react to a warning."""
    from editing import METHODS

    offered = GENTLER in METHODS and METHODS[edit.method].family == "locate-then-edit" and edit.method != GENTLER
    with st.container(horizontal=True):
        if session().edit_ask is None or session().edit_ask.key in ledger.active():
            st.button(say("Roll back"), key="roll_back", icon=":material/undo:", on_click=ledger.undo)
        if offered:
            st.button(say("Try AlphaEdit instead"), key="gentler", icon=":material/shield:", on_click=_try_gentler)


def _try_gentler() -> None:
    """Callback: the same edit by the gentler method, in place of this one."""
    st.session_state.method = GENTLER
    state.press("apply")


def _diagnostics(edit: Edit) -> None:
    import pandas as pd

    if len(edit.loss_curve) > 1:
        from app.shared.plots import spark

        losses = edit.loss_curve
        words = say("Loss over {n} steps", n=len(losses)), f"{losses[0]:.2f} → {losses[-1]:.2f}"
        st.metric(*words)
        config = {"displayModeBar": False, "staticPlot": True}
        st.plotly_chart(spark(losses), key="loss_curve", config=config, alt=": ".join(words))
    rows = [(said(d.name), _value(d.value, d.unit), said(d.help)) for d in edit.diagnostics]
    frame = pd.DataFrame(rows, columns=["number", "value", "what it is"])
    st.dataframe(
        frame,
        hide_index=True,
        key="diagnostics",
        alt=say("Diagnostics of the edit"),
        column_config=headings(frame.columns),
    )


def _percent(share: Diagnostic | None) -> str:
    return "" if share is None else f"{100 * share.value:.2g} %" if share.value < 1 else f"× {share.value:.3g}"


def _value(value: float, unit: str) -> str:
    if unit == "probability":
        return probability(value)
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"  # infinite conditions exist
    return f"{number} {said(unit)}".strip()
