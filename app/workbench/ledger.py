"""The edits of one session: which are active, undoing any of them, and branches that remember a set of them.

Which edits stand where is `facts.branches`, as in the ledger of a folder.  The active edits are its current branch; a
saved branch stays as it was when it was saved.  An edit is remembered by the key of what was asked; the edit itself is
data in the server's drawer.
"""

from __future__ import annotations

import streamlit as st

from app.probes import Row
from app.server import cache
from app.server.catalog import Choice
from app.server.jobs import Job
from app.session import state
from app.session.asks import CompareAsk, EditAsk, FileAsk, ScoreAsk
from facts.branches import Branches

MOST = 20
"""Active edits in one session."""
UNEDITED, CURRENT = "Unedited", "Active edits"


def start(model: Choice) -> None:
    """An empty ledger; also after another model was chosen, since an edit belongs to its weights."""
    session = st.session_state
    session.asked_model = model.key
    if session.get("ledger_model") == model.weights_key:
        return
    session.ledger_model = model.weights_key
    session.edit_ask = session.score_ask = session.compare_ask = None
    session.ledger = Branches({CURRENT: ()}, CURRENT)
    session.compared = ("", "")
    session.score_wanted = False


def active() -> tuple[str, ...]:
    """Keys of the edits in effect, oldest first."""
    return _ledger().edits()


def _ledger() -> Branches:
    found: Branches = st.session_state.ledger
    return found


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
    """A finished edit becomes active, in place of an earlier one of the same prompt; a broken one only when asked."""
    ask: EditAsk | FileAsk | None = st.session_state.edit_ask
    if ask is None or job is None or job.state != "done" or ask.key in active():
        return
    cache.drawer().put(ask.key, job.result)  # the job may be older than what the drawer still holds
    from experiments.guard import why_broken

    if why_broken(job.result.diagnostics) and st.session_state.get("kept_broken") != ask.key:
        return
    kept = ask.active if isinstance(ask, EditAsk) else beside(job.result.requests[0].fact.prompt)
    st.session_state.ledger = _ledger().put(CURRENT, [*(key for key in kept if key in active()), ask.key])


def keep_broken() -> None:
    """Callback: the edit just made becomes active although it is broken."""
    st.session_state.kept_broken = st.session_state.edit_ask.key


def undo(key: str | None = None) -> None:
    """Callback: take one edit back, by default the last; it was never in the model, so it is just left out."""
    session = st.session_state
    gone = key if key is not None else session.edit_ask.key if session.edit_ask else active()[-1]
    session.ledger = _ledger().without(gone)
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
    session.score_ask = ScoreAsk(session.asked_model, last, active(), None)
    session.score_wanted = False


def score(rows: tuple[Row, ...] | None) -> None:
    """Ask for the scores of the last edit, with all active ones in the model."""
    session = st.session_state
    last = session.edit_ask.key if session.edit_ask else active()[-1]
    session.score_ask, session.score_wanted = ScoreAsk(session.asked_model, last, active(), rows), False
    state.ask_anew(session.score_ask.key)


def save_branch() -> None:
    """Callback: remember the active edits under the name in the field."""
    name = (st.session_state.get("branch_name") or "").strip() or f"Branch {len(saved()) + 1}"
    if name not in (UNEDITED, CURRENT):
        st.session_state.ledger = _ledger().put(name, active())
    st.session_state.branch_name = ""


def switch(name: str) -> None:
    """Callback: make a branch's edits the active ones."""
    st.session_state.ledger = _ledger().put(CURRENT, branches()[name])
    st.session_state.edit_ask = st.session_state.score_ask = None
    if active():
        _score_last()


def saved() -> dict[str, tuple[str, ...]]:
    """The branches that were saved, by name."""
    return {name: keys for name, keys in _ledger().by_name.items() if name != CURRENT}


def branches() -> dict[str, tuple[str, ...]]:
    """Every set of edits that can be compared, by name."""
    return {UNEDITED: (), **_ledger().by_name}


def start_comparison(left: str, right: str) -> None:
    """Callback of Compare."""
    named = branches()
    ask = CompareAsk(st.session_state.asked_model, named[left], named[right])
    st.session_state.compare_ask, st.session_state.compared = ask, (left, right)
    state.ask_anew(ask.key)
