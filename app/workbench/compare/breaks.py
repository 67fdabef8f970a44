"""The tab "What will it break?": prompts that an edit will move, foretold before it is applied and measured after."""

from __future__ import annotations

import streamlit as st

from app.language.say import later, said, say
from app.server.jobs import Runner
from app.session.asks import BreakAsk, EditAsk
from app.session.form import Form
from app.session.session import session
from app.shared.waiting import Waiting
from app.workbench import ledger
from app.workbench.compare import asking, work


def draw(form: Form, runner: Runner, ask: EditAsk | None) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        say(
            "Before the edit is applied: the neighbours and stored facts that it will move "
            "most, foretold from keys alone "
            "(how far the change of the weight answers to their keys, docs/editing.md). Once "
            "the edit is active, the table "
            "also shows how far each was really moved."
        )
    )
    if ask is None:
        st.caption(say("Run a trace first; then the method can be chosen."))
        return []
    why = later("First correct the field named above.") if form.problems or form.edit_problem else ""
    made = session().edit_ask
    if isinstance(made, EditAsk) and made.key in ledger.active() and _same_edit(made, ask):
        ask = made  # the edits that were active when it was computed are still those it belongs to
    moved, waiting = asking.draw(
        runner,
        BreakAsk(ask),
        work.breaks,
        button=later("Foretell"),
        label=later("Foretelling what the edit will break"),
        why_not=why,
    )
    last = session().asked.get(BreakAsk.kind)
    if moved is not None and isinstance(last, BreakAsk):
        _show(moved, measured=last.edit.key in ledger.active())
    return waiting


def _same_edit(one: EditAsk, other: EditAsk) -> bool:
    return (one.prompt, one.subject, one.answer, one.new, one.method, one.config) == (
        other.prompt,
        other.subject,
        other.answer,
        other.new,
        other.method,
        other.config,
    )


def _show(moved: tuple[work.Moved, ...], *, measured: bool) -> None:
    import pandas as pd

    rows = [
        {"rank": index, "prompt": one.prompt, "foretold": f"{one.foretold:.3f}"}
        | ({"measured, nats": f"{one.nats:.3f}"} if measured else {})
        for index, one in enumerate(moved, 1)
    ]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="breaks_table",
        alt=say("Prompts that the edit will move most"),
        column_config={
            "rank": said("rank"),
            "prompt": st.column_config.TextColumn(said("prompt"), width="large"),
            "foretold": st.column_config.TextColumn(
                say("foretold"), help=say("Without a unit: only the order of prompts means something.")
            ),
            "measured, nats": st.column_config.TextColumn(
                say("measured, nats"),
                help=say("KL divergence of the next token, without and with the edit; 0 is unchanged."),
            ),
        },
    )
    if not measured:
        st.caption(say("Apply the edit to see how far each was really moved."))
