"""A tab's question: the button that asks it, its progress, its errors, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from app.language.say import said, say
from app.server.jobs import Runner
from app.session import state
from app.session.asks import Ask
from app.session.session import session
from app.shared.waiting import Waiting, cancel
from app.shared.wording import plain
from facts.watch import Watch


def draw(
    runner: Runner, ask: Ask, work: Callable[[Any, Watch], Any], *, button: str, label: str, why_not: str = ""
) -> tuple[Any, list[Waiting]]:
    """Draw the button, or the progress of what it started; the answer, or None, and what to wait for.

    Args:
        ask: the question as the fields put it now.
        work: answers it, in a worker.
        button: its words.
        label: of the job.
        why_not: why it cannot be asked now; empty if it can.
    """
    kind, mine = ask.kind, session()
    if state.pressed(kind) and not why_not:
        mine.asked[kind] = ask
        state.ask_anew(ask.key)
    last = mine.asked.get(kind)
    job = None if last is None else state.job_for(runner, last.key, label, partial(work, last))
    if job is not None and job.live:
        cancel(runner, job, f"cancel_{kind}")
        return None, [Waiting(job, st.empty())]
    st.button(
        said(button),
        key=f"start_{kind}",
        icon=":material/play_arrow:",
        disabled=bool(why_not),
        help=said(why_not) or None,
        on_click=state.press,
        args=(kind,),
    )
    if job is None:
        return None, []
    if job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(say("Cancelled. Nothing is shown of what did not finish."), icon=":material/block:")
    elif last != ask:
        st.warning(say("The inputs have changed since this was computed."), icon=":material/history:")
    return job.result if job.state == "done" else None, []
