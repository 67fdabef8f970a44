"""A reload keeps a reader's edits: the server holds the session under a secret of the browser and a number of the tab.

The secret is random and lies in a cookie that no script can read (`app/server/gate.py`); the tab's number is in its
address, and is of no use to another browser.  A reloaded tab goes on with a copy under a new number, so that a
duplicated tab has a session of its own.
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections import OrderedDict
from typing import Any

import streamlit as st

from app.server.cache import Shared
from app.session.reader import browser_secret
from app.session.session import Session, session

MOST = 100
"""Sessions held; those that did nothing for longest go first."""
PARAMETER = "tab"
"""Of the address."""
TAKEN_OVER = (
    "given_up", "trace_ask", "trace_before", "traced", "layers_ask", "edit_ask", "score_ask", "asked", "score_wanted",
    "compare_ask", "compared", "seen_trace", "seen_fact", "keep_layer", "layer_before", "token_of", "method_shown",
    "probe_rows", "asked_model", "ledger_model", "ledger", "ledgers", "edits_made", "scored", "replacing",
    "kept_broken", "runs", "runs_seen", "widgets", "probes_typed",
)  # fmt: skip
"""Fields of a session that a reload keeps; those of the form are in the link."""
WIDGETS = ("method", "fact_token", "roll_back_broken", "measure", "marks")
"""Keys of widgets whose values are not in the link."""


class Keeper:
    """The sessions of all readers by their names."""

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


keeper = Shared(Keeper)
"""The sessions of this server."""


def _name(tab: str) -> str:
    """The name of a tab's session; empty where the browser has no secret."""
    secret = browser_secret()
    return f"{secret}/{tab}" if secret and tab else ""


def take_over() -> None:
    """At the first run of a session: go on with the one the tab had before a reload, if it is still held."""
    mine = session()
    if mine.tab:
        return
    mine.tab = secrets.token_hex(4)
    earlier = keeper().get(_name(st.query_params.get(PARAMETER, "")))
    if earlier is None:
        st.query_params.pop(PARAMETER, None)
        return
    for field in TAKEN_OVER:
        setattr(mine, field, copy.copy(getattr(earlier, field)))
    for key, value in mine.widgets.items():
        st.session_state[key] = value


def hold() -> None:
    """Hold the session, and put the tab's number into its address, once there is something to keep."""
    mine = session()
    name = _name(mine.tab)
    if name and (mine.trace_ask is not None or mine.ledger.edits()):
        keeper().put(name, mine)
        st.query_params[PARAMETER] = mine.tab


def remember_widgets() -> None:
    """Note the method and its settings, once they are drawn."""
    fields = st.session_state
    method = fields.get("method", "")
    keys = [key for key in fields if key in WIDGETS or (method and str(key).startswith(f"{method}_"))]
    session().widgets = {str(key): fields[key] for key in keys if _is_plain(fields[key])}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
