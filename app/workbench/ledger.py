"""The edits of one session: which are active, undoing any of them, and branches that remember a set of them.

`facts.branches` says which edits a branch holds, as in the ledger of a folder.  The active edits are the current
branch; a saved branch does not change.  An edit is remembered by the key of its question; the edit itself is data in
the server's drawer.
"""

from __future__ import annotations

import streamlit as st

from app.language.say import say
from app.probes import Row
from app.server import cache
from app.server.catalog import Choice
from app.server.job import Job
from app.session import state
from app.session.asks import CompareAsk, EditAsk, FileAsk, ScoreAsk
from app.session.session import CURRENT, no_edits, session
from app.shared.wording import plain

UNEDITED = "Unedited"


def start(model: Choice) -> None:
    """Take the model's ledger, an empty one at first: an edit belongs to its weights.  Its map comes back, too."""
    mine = session()
    mine.asked_model = model.key
    if mine.ledger_model == model.weights_key:
        return
    mine.ledgers[mine.ledger_model] = mine.ledger
    mine.ledger, mine.ledger_model = mine.ledgers.pop(model.weights_key, no_edits()), model.weights_key
    mine.edit_ask = mine.score_ask = mine.compare_ask = None
    mine.asked, mine.compared, mine.score_wanted = {}, ("", ""), False
    mine.trace_ask = mine.trace_ask or mine.traced.get(model.key)
    if active():
        _score_last()


def active() -> tuple[str, ...]:
    """Keys of the edits in effect, oldest first."""
    return session().ledger.edits()


def beside(prompt: str) -> tuple[str, ...]:
    """The active edits that stay when this prompt is edited; a new edit of a prompt replaces the old one."""
    kept = ((key, cache.drawer().get(key)) for key in active())
    return tuple(key for key, edit in kept if edit is None or all(r.fact.prompt != prompt for r in edit.requests))


def start_edit(ask: EditAsk | FileAsk) -> None:
    """Ask for an edit, to be scored once it is active."""
    session().edit_ask, session().score_ask = ask, None
    session().edits_made[ask.key] = ask
    session().score_wanted = True
    state.ask_anew(ask.key)


def settle(job: Job | None) -> None:
    """Activate a finished edit in place of an earlier one of the same prompt; a broken one only on request."""
    ask = session().edit_ask
    if ask is None or job is None or job.live or ask.key in active():
        return
    if job.state != "done":
        _keep_scores()
        return
    cache.drawer().put(ask.key, job.result)  # the job may be older than what the drawer still holds
    from experiments.guard import why_broken

    if why_broken(job.result.diagnostics) and session().kept_broken != ask.key:
        _keep_scores()
        return
    kept = ask.active if isinstance(ask, EditAsk) else beside(job.result.requests[0].fact.prompt)
    session().replacing = ask.key if set(active()) - set(kept) else ""
    session().ledger = session().ledger.put(CURRENT, [*(key for key in kept if key in active()), ask.key])


def _keep_scores() -> None:
    """The edit just asked for is not active: the scores go on to be those of the edits that are."""
    if active() and session().score_ask is None:
        _score_last()


def keep_broken() -> None:
    """Callback: the edit just made becomes active although it is broken."""
    session().kept_broken, session().score_wanted = session().edit_ask.key, True


def undo(key: str | None = None) -> None:
    """Callback: undo one edit, by default the last.  It was never in the model, so it is just left out."""
    mine = session()
    gone = active()[-1] if key is None else key
    mine.ledger = mine.ledger.without(gone)
    # The one made last may not be active: it failed, was cancelled or is broken.  Undo then clears what is said of it.
    if mine.edit_ask is not None and (key is None or mine.edit_ask.key == gone):
        mine.edit_ask = None
    mine.score_ask = None
    if active():
        _score_last()


def _score_last() -> None:
    """Show the scores of the last active edit: those it had beside the same edits, else on the probes it came with."""
    mine = session()
    edit_ask = mine.edit_ask
    last = edit_ask.key if edit_ask is not None and edit_ask.key in active() else active()[-1]
    asked = mine.scored.get((last, *active()))
    mine.score_ask = ScoreAsk(mine.asked_model, last, active(), None) if asked is None else asked
    mine.score_wanted = False


def score(rows: tuple[Row, ...] | None) -> None:
    """Ask for the scores of the last edit, with all active ones in the model."""
    mine = session()
    last = mine.edit_ask.key if mine.edit_ask else active()[-1]
    mine.score_ask, mine.score_wanted = ScoreAsk(mine.asked_model, last, active(), rows), False
    mine.scored[last, *active()] = mine.score_ask
    state.ask_anew(mine.score_ask.key)


def save_branch() -> None:
    """Callback: remember the active edits under the name in the field."""
    name = (st.session_state.get("branch_name") or "").strip() or f"Branch {len(saved()) + 1}"
    if name in (UNEDITED, CURRENT):
        st.toast(
            say("{name} is not free for a branch; choose another name.", name=plain(name)), icon=":material/error:"
        )
        return
    session().ledger = session().ledger.put(name, active())
    st.session_state.branch_name = ""


def switch(name: str) -> None:
    """Callback: make a branch's edits the active ones."""
    session().ledger = session().ledger.put(CURRENT, branches()[name])
    session().edit_ask = session().score_ask = None
    if active():
        _score_last()


def saved() -> dict[str, tuple[str, ...]]:
    """The branches that were saved, by name."""
    return {name: keys for name, keys in session().ledger.by_name.items() if name != CURRENT}


def branches() -> dict[str, tuple[str, ...]]:
    """Every set of edits that can be compared, by name."""
    return {UNEDITED: (), **session().ledger.by_name}


def start_comparison(left: str, right: str) -> None:
    """Start comparing the edits of two branches: the button Compare."""
    named = branches()
    ask = CompareAsk(session().asked_model, named[left], named[right])
    session().compare_ask, session().compared = ask, (left, right)
    state.ask_anew(ask.key)
