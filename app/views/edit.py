"""2 · Edit: the layer, the method and its settings, apply and undo, and what the edit did to the weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.asks import EditAsk
from app.jobs import Job, Runner
from app.state import KEEP, Form
from app.views.locate import SUMMARY_STYLE
from app.views.waiting import Waiting
from app.wording import duration, markup, plain, probability

if TYPE_CHECKING:
    from app.workflow import Located
    from editing import Diagnostic, Edit

METHOD_NAMES = {"rome": "ROME"}
PROBABILITIES = ("p(new) before", "p(new) after")


def draw(form: Form, runner: Runner, trace: Job | None, edit: Job | None) -> list[Waiting]:
    """The whole card."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("2 · Edit", anchor=False, width="content")
    layer = _layer(form, trace)
    ready = trace is not None and trace.state == "done"
    method = st.session_state.get("method", "rome")
    config: dict[str, Any] = {"layer": layer}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if ready:
            method = st.selectbox(
                "Method",
                _methods(),
                format_func=lambda code: METHOD_NAMES.get(code, code),
                key="method",
                persist_state="session",
            )
            with st.popover("Advanced", icon=":material/tune:"):
                config |= _advanced(method)
        else:
            st.selectbox("Method", ["ROME"], key="method_waiting", disabled=True)
    ask = EditAsk(
        form.model.name,
        form.prompt,
        form.subject,
        form.answer.strip(),
        form.new.strip(),
        method,
        tuple(sorted(config.items())),
    )
    waiting = _actions(form, runner, ask, edit, ready)
    if edit is None and not ready:
        st.caption("Run a trace first; it suggests a layer.")
    elif edit is not None and edit.state == "cancelled":
        st.info("Cancelled. The model is as it was.", icon=":material/block:")
    elif edit is not None and edit.state == "failed":
        st.error(plain(edit.error), icon=":material/error:")
    elif edit is not None and edit.state == "done":
        _applied(edit.result, ask)
    return waiting


def _layer(form: Form, trace: Job | None) -> int:
    last = form.model.n_layers - 1
    # A smaller model may have been chosen since; the slider refuses values outside its range.
    if st.session_state.get("layer", 0) > last:
        st.session_state.layer = last
    layer: int = st.slider(
        "Layer", 0, last, form.model.n_layers // 4, key="layer",
        help="A click on the map, the arrow keys here, and the table all set this one number. Where a fact is traced "
        "to says little about where an edit works best (Hase et al. 2023, arXiv:2301.04213): the trace suggests, "
        "you choose.",
        **KEEP,
    )  # fmt: skip
    if trace is not None and trace.state == "done":
        st.caption(_suggestion(trace.result, layer))
    return layer


def _suggestion(found: Located, layer: int) -> str:
    """What the trace suggests, what the reader chose, and where no edit can act if that matters to either."""
    peak, suggested = found.main.peak()[1], found.suggested
    passed_over = f", the largest effect where an edit can act: layer {peak}’s MLP is silent here"
    words = f"The trace suggests layer {suggested}{passed_over if peak != suggested else ''}."
    if layer in found.silent:
        return f"{words} You chose layer {layer}, whose MLP is silent here: an edit cannot act there."
    return words if layer == suggested else f"{words} You chose layer {layer}."


def _actions(form: Form, runner: Runner, ask: EditAsk, edit: Job | None, ready: bool) -> list[Waiting]:
    live = edit is not None and edit.live
    blocked = form.problems or form.edit_problem
    with st.container(horizontal=True):
        if live and edit is not None:
            st.button(
                "Cancel", key="cancel_edit", icon=":material/stop_circle:", on_click=state.give_up, args=(runner, edit)
            )
        else:
            st.button(
                "Apply edit",
                key="apply_edit",
                icon=":material/edit:",
                type="secondary" if st.context.theme.type == "dark" or not ready else "primary",
                disabled=not ready or bool(blocked),
                help=form.edit_problem or None,
                on_click=state.start_edit,
                args=(ask,),
            )
        if edit is not None and edit.state == "done":
            st.button("Undo", key="undo", icon=":material/undo:", on_click=state.undo)
    return [Waiting(edit, st.empty())] if live and edit is not None else []


def _methods() -> list[str]:
    from editing import METHODS

    return list(METHODS)


def _advanced(method: str) -> dict[str, Any]:
    """One widget per field of the method's config; only values that differ from the defaults are returned."""
    from editing import METHODS

    changed: dict[str, Any] = {}
    knobs = [knob for knob in dataclasses.fields(METHODS[method].config_type) if _shown(knob)]
    for column, half in zip(st.columns(2), (knobs[0::2], knobs[1::2]), strict=True):
        with column:
            values = {knob.name: _knob(method, knob) for knob in half}
        changed |= {knob.name: values[knob.name] for knob in half if values[knob.name] != knob.default}
    st.caption(f"{len(changed)} changed from the defaults." if changed else "All at their defaults.")
    return changed


def _shown(knob: dataclasses.Field[Any]) -> bool:
    """The layer has its slider.  Free text is left out: it names files, and the server's files are not the reader's."""
    free_text = isinstance(knob.default, str) and not knob.metadata.get("choices")
    return knob.name != "layer" and "help" in knob.metadata and not free_text


def _knob(method: str, knob: dataclasses.Field[Any]) -> Any:
    key, label, help_text = (
        f"{method}_{knob.name}",
        knob.name.replace("_", " ").capitalize(),
        str(knob.metadata["help"]),
    )
    options = knob.metadata.get("choices")
    keep: dict[str, Any] = {"key": key, "help": help_text, "persist_state": "session"}
    if options:
        return st.selectbox(label, list(options), list(options).index(knob.default), **keep)
    if isinstance(knob.default, bool):
        return st.checkbox(label, knob.default, **keep)
    if isinstance(knob.default, int | float):
        kind = type(knob.default)
        bounds = [None if (bound := knob.metadata.get(name)) is None else kind(bound) for name in ("min", "max")]
        step = 1 if kind is int else None
        return st.number_input(label, *bounds, knob.default, step, format=None if kind is int else "%g", **keep)
    return knob.default


def _applied(edit: Edit, ask: EditAsk) -> None:
    if st.session_state.edit_ask != ask:
        st.warning(
            "Inputs changed since this edit; the scores below belong to the earlier ones.", icon=":material/history:"
        )
    numbers = {diagnostic.name: diagnostic for diagnostic in edit.diagnostics}
    shown = [
        ("p(new answer)", " → ".join(probability(numbers[name].value) for name in PROBABILITIES if name in numbers)),
        ("Change of the weight", _percent(numbers.get("relative change"))),
        ("Edit time", duration(sum((edit.seconds or {}).values()))),
    ]
    cells = "".join(f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd></div>" for name, value in shown if value)
    st.html(f'{SUMMARY_STYLE}<dl class="numbers">{cells}</dl>')
    for warning in edit.warnings:
        st.warning(plain(f"{warning[:1].upper()}{warning[1:].rstrip('.')}."), icon=":material/report:")
    with st.expander("Loss and diagnostics"):
        _diagnostics(edit)


def _diagnostics(edit: Edit) -> None:
    import pandas as pd

    if len(edit.loss_curve) > 1:
        losses = edit.loss_curve
        st.metric(f"Loss over {len(losses)} steps", f"{losses[0]:.2f} → {losses[-1]:.2f}", chart_data=list(losses))
    rows = [(d.name, _value(d.value, d.unit), d.help) for d in edit.diagnostics]
    frame = pd.DataFrame(rows, columns=["number", "value", "what it is"])
    st.dataframe(frame, hide_index=True, key="diagnostics", alt="Diagnostics of the edit")


def _percent(share: Diagnostic | None) -> str:
    return "" if share is None else f"{100 * share.value:.2g} %" if share.value < 1 else f"× {share.value:.3g}"


def _value(value: float, unit: str) -> str:
    if unit == "probability":
        return probability(value)
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"  # infinite conditions exist
    return f"{number} {unit}".strip()
