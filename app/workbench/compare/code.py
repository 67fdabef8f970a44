"""The tab "As code": a script that gives the numbers of the page."""

from __future__ import annotations

import streamlit as st

from app import as_code
from app.language.say import said, say
from app.session.session import session
from app.shared.waiting import Waiting
from app.shared.wording import plain, sentence
from app.workbench import ledger


def draw() -> list[Waiting]:
    """Draw the tab; there is nothing to wait for."""
    mine = session()
    edits = [mine.edits_made[key] for key in ledger.active() if key in mine.edits_made]
    if len(edits) < len(ledger.active()):
        st.caption(say("Some active edits were not computed in this session; they are left out of the script."))
    elif any(set(edit.active) - set(ledger.active()) for edit in edits):
        st.caption(
            say("An edit was computed beside another that is undone; the script computes it without, so it may differ.")
        )
    probes = mine.score_ask.probes if mine.score_ask is not None and edits else None
    try:
        text = as_code.script(mine.trace_ask, edits, probes)
    except ValueError as error:
        st.caption(plain(said(sentence(error))))
        return []
    st.caption(say("This script gives the same map, edits and scores without the page."))
    st.code(text, language="python", wrap_lines=True)  # no keyboard scrolls sideways
    return []
