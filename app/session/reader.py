"""Who reads the page, as far as the server needs to know: whose batch this is."""

from __future__ import annotations

import hashlib

import streamlit as st

from app.server import limits
from app.server.gate import COOKIE
from app.session.session import session


def browser_secret() -> str:
    """The secret that `app/server/gate.py` gave the browser; empty where it has none, as in tests without one."""
    secret = st.context.cookies.get(COOKIE, "")
    return secret if isinstance(secret, str) else ""


def reader() -> str:
    """A name of the reader: of the login, else of the browser's secret, else of the session; hashed."""
    login = str(st.user.get("email") or "") if limits.login() else ""
    name = login or browser_secret() or session().asker
    return hashlib.sha256(name.encode()).hexdigest()[:24]
