"""Who reads the page, as far as the server needs to know: whose batch this is."""

from __future__ import annotations

import hashlib

import streamlit as st

from app.server import limits
from app.server.gate import COOKIE
from app.session.session import session


def reader() -> str:
    """A name of the reader: of the login, else of the browser's secret, else of the session; hashed."""
    login = str(st.user.get("email") or "") if limits.login() else ""
    name = login or str(st.context.cookies.get(COOKIE, "")) or session().asker
    return hashlib.sha256(name.encode()).hexdigest()[:24]
