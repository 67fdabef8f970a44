"""The edits of one session: which are active, undoing any of them, and branches that remember a set of them.

An edit is remembered by its key; the edit itself is data in the server's drawer.  The shared model is never changed, so
undoing is leaving a key out.
"""

from __future__ import annotations

import streamlit as st

from app import cache, state
from app.asks import CompareAsk, EditAsk, FileAsk, ScoreAsk
from app.jobs import Job
from app.probes import Row

MOST = 20
"""Active edits in one session."""
UNEDITED, CURRENT = "Unedited", "Active edits"


def start(model: str) -> None:
    """An empty ledger; also after another model was chosen, since an edit belongs to its weights."""
    session = st.session_state
    if session.get("ledger_model") == model:
        return
    session.ledger_model = model
    session.edit_ask = session.score_ask = session.compare_ask = None
    session.ledger, session.branches = (), {}
    session.compared = ("", "")
    session.score_wanted = False


def active() -> tuple[str, ...]:
    """Keys of the edits in effect, oldest first."""
    keys: tuple[str, ...] = st.session_state.ledger
    return keys


def beside(prompt: str) -> tuple[str, ...]:
    """The active edits that stay when this prompt is edited: an edit of the same prompt takes the old one's place."""
    kept = ((key, cache.drawer().get(key)) for key in active())
    return tuple(key for key, edit in kept if edit is None or all(r.fact.prompt != prompt for r in edit.requests))


def start_edit(ask: EditAsk | FileAsk) -> None:
    """Ask for an edit; its scores are asked for once it is there."""
    st.session_state.edit_ask, st.session_state.score_ask = ask, None
    st.session_state.score_wanted = True
    state.ask_anew(ask.key)


def settle(job: Job | None) -> None:
    """A finished edit becomes active, in place of an earlier one of the same prompt."""
    ask: EditAsk | FileAsk | None = st.session_state.edit_ask
    if ask is None or job is None or job.state != "done" or ask.key in active():
        return
    cache.drawer().put(ask.key, job.result)  # the job may be older than what the drawer still holds
    kept = ask.active if isinstance(ask, EditAsk) else beside(job.result.requests[0].fact.prompt)
    st.session_state.ledger = (*(key for key in kept if key in active()), ask.key)


def undo(key: str | None = None) -> None:
    """Callback: take one edit back, by default the last; it was never in the model, so it is just left out."""
    session = st.session_state
    gone = key if key is not None else session.edit_ask.key if session.edit_ask else active()[-1]
    session.ledger = tuple(other for other in active() if other != gone)
    if session.edit_ask is not None and session.edit_ask.key == gone:
        session.edit_ask = None
    session.score_ask = None
    if active():
        _score_last()


def _score_last() -> None:
    """The last active edit is the one whose scores are shown; on the probes it came with."""
    session = st.session_state
    edit_ask = session.edit_ask
    last = edit_ask.key if edit_ask is not None and edit_ask.key in active() else active()[-1]
    session.score_ask = ScoreAsk(session.ledger_model, last, active(), None)
    session.score_wanted = False


def score(rows: tuple[Row, ...] | None) -> None:
    """Ask for the scores of the last edit, with all active ones in the model."""
    session = st.session_state
    last = session.edit_ask.key if session.edit_ask else active()[-1]
    session.score_ask, session.score_wanted = ScoreAsk(session.ledger_model, last, active(), rows), False
    state.ask_anew(session.score_ask.key)


def save_branch() -> None:
    """Callback: remember the active edits under the name in the field."""
    name = (st.session_state.get("branch_name") or "").strip() or f"Branch {len(st.session_state.branches) + 1}"
    if name not in (UNEDITED, CURRENT):
        st.session_state.branches = {**st.session_state.branches, name: active()}
    st.session_state.branch_name = ""


def switch(name: str) -> None:
    """Callback: make a branch's edits the active ones."""
    st.session_state.ledger = branches()[name]
    st.session_state.edit_ask = st.session_state.score_ask = None
    if active():
        _score_last()


def branches() -> dict[str, tuple[str, ...]]:
    """Every set of edits that can be compared, by name."""
    return {UNEDITED: (), CURRENT: active(), **st.session_state.branches}


def start_comparison(left: str, right: str) -> None:
    """Callback of Compare."""
    named = branches()
    ask = CompareAsk(st.session_state.ledger_model, named[left], named[right])
    st.session_state.compare_ask, st.session_state.compared = ask, (left, right)
    state.ask_anew(ask.key)
