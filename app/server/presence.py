"""Which sessions are connected: a tab that was closed waits for nothing any more."""

from __future__ import annotations

import uuid

from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx


def new_name() -> str:
    """A name for the session whose script runs: Streamlit's own id of the session and a random part."""
    context = get_script_run_ctx(suppress_warning=True)
    return f"{context.session_id if context is not None else ''}:{uuid.uuid4().hex}"


def is_here(name: str) -> bool:
    """Whether the session of that name is connected; True for a name that no session has."""
    session_id = name.partition(":")[0]
    if not session_id or not runtime.exists():
        return True
    return bool(runtime.get_instance().is_active_session(session_id))


def forget_closed() -> None:
    """Drop the sessions whose tabs were closed longer ago than `server.disconnectedSessionTTL`.

    Streamlit itself does so only when a later session closes, and each holds an event loop (three files) until then.
    """
    runtime.get_instance()._session_mgr._session_storage._cache.expire()  # type: ignore[attr-defined]
