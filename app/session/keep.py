"""A reload keeps a reader's edits: the server holds the session under a name that only the reader's tab knows.

The name is random, is never part of a link, and lies in the tab's own storage.  A reloaded tab hands it in and goes on
with a copy under a new name, so that a duplicated tab gets a session of its own.
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections import OrderedDict
from typing import Any

import streamlit as st

from app.session.session import Session, session

MOST = 100
"""Sessions held; those that did nothing for longest go first."""
TAKEN_OVER = (
    "asker", "given_up", "trace_ask", "layers_ask", "edit_ask", "score_ask", "score_wanted", "compare_ask", "compared",
    "seen_trace", "keep_layer", "layer_before", "token_of", "method_shown", "probe_rows", "asked_model", "ledger_model",
    "ledger", "kept_broken", "runs", "runs_seen", "widgets",
)  # fmt: skip
"""Fields of a session that a reload keeps; those of the form are in the link."""
WIDGETS = ("method", "fact_token", "roll_back_broken", "measure", "marks")
"""Keys of widgets whose values are not in the link."""


class Keeper:
    """The sessions of all readers by their secret names."""

    def __init__(self, most: int = MOST) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._most = most

    def put(self, name: str, kept: Session) -> None:
        """Hold a session; it is the object itself, which changes with the session."""
        with self._lock:
            self._sessions[name] = kept
            self._sessions.move_to_end(name)
            while len(self._sessions) > self._most:
                self._sessions.popitem(last=False)

    def get(self, name: str) -> Session | None:
        """The session of that name, if it is still held."""
        with self._lock:
            return self._sessions.get(name)


@st.cache_resource(show_spinner=False)
def keeper() -> Keeper:
    """The sessions of this server."""
    return Keeper()


def hold() -> str:
    """Hold the session of this run; its name, for the tab to remember."""
    mine = session()
    if not mine.name:
        mine.name = secrets.token_urlsafe(24)
    keeper().put(mine.name, mine)
    return mine.name


def take_over(name: str) -> None:
    """Go on with the session that the tab had before it was reloaded; once, and only if it is still held."""
    mine, earlier = session(), keeper().get(name)
    if mine.asked_before or earlier is None or earlier is mine:
        mine.asked_before = True
        return
    mine.asked_before = True
    for field in TAKEN_OVER:
        setattr(mine, field, copy.copy(getattr(earlier, field)))
    for key, value in mine.widgets.items():
        st.session_state[key] = value


def remember_widgets() -> None:
    """Note the method and its settings, once they are drawn."""
    fields = st.session_state
    method = fields.get("method", "")
    keys = [key for key in fields if key in WIDGETS or (method and str(key).startswith(f"{method}_"))]
    session().widgets = {str(key): fields[key] for key in keys if _is_plain(fields[key])}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
