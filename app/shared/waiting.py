"""Show the progress of the jobs a page waits for, and wait for them.

The wait is a loop at the *end* of the script: everything is drawn by then, so nothing is greyed out, and a click
interrupts the loop but not the job (measured: faster than a polling fragment, which slows the job itself).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.language.say import said, say
from app.server.job import Job
from app.server.jobs import Runner
from app.session import state
from app.shared.wording import plain, roughly

TICK_SECONDS, QUEUED_SECONDS = 0.5, 1.0
"""Between two looks at a running job, and at one that waits its turn; its end or an early result is seen at once.  Each
move of a bar takes time from the trace where the browser runs on the same cores."""
PAINTING_SECONDS = 0.5
"""Between the first drawing of a page and the next, which has a map.  A browser that gets both at once loads the code
of maps before it paints anything, a second later."""
MEGABYTE = 1e6
ALL_DRAWN = """<style>
body:has([data-stale=false] .all-drawn) [data-stale=true] { display: none }
</style><i class="all-drawn"></i>"""
"""Streamlit keeps what an earlier run drew until this one ends, hence while it waits.  This hides it, from the moment
when all is drawn until the next run begins."""


@dataclass(frozen=True)
class Waiting:
    """A live job, and the place on the page that shows its progress; None if nothing shows it."""

    job: Job
    place: Any
    early: Any = None
    """The early result that is drawn; with a newer one the page is drawn again."""


def let_paint() -> None:
    """Wait until the browser has painted what was drawn."""
    time.sleep(PAINTING_SECONDS)


def cancel(runner: Runner, job: Job, key: str) -> None:
    """The button that cancels a job."""
    st.button(say("Cancel"), key=key, icon=":material/stop_circle:", on_click=state.give_up, args=(runner, job))


def show(runner: Runner, waiting: Waiting) -> None:
    """One line and a bar."""
    job = waiting.job
    if waiting.place is None:
        return
    if job.stop.is_set():
        waiting.place.progress(job.fraction, text=say("Stopping…"))
        return
    ahead = runner.ahead(job)
    # a stage named like its job is not shown twice
    label = said(job.label)
    what = label if job.stage.lower() in job.label.lower() else f"{label}: {said(job.stage)}"
    if ahead:
        seconds = runner.seconds_to_wait(job)
        text = say("{label}: {ahead} ahead of you", label=label, ahead=ahead) + (
            say(", about {seconds} to wait", seconds=roughly(seconds)) if seconds else ""
        )
    elif job.state == "queued" or not job.total or job.done >= job.total:
        text = f"{what}…"
    else:
        left = job.seconds_left()
        text = f"{what}, {_how_far(job)}" + (
            say(", about {left} left", left=roughly(left)) if left and left >= 1 else ""
        )
    waiting.place.progress(job.fraction, text=plain(text))


def _how_far(job: Job) -> str:
    if job.lane != "fetch":
        return f"{100 * job.fraction:.0f} %"
    rate = say(", {rate:.1f} MB/s", rate=job.rate / MEGABYTE) if job.rate else ""
    return say("{done:.0f} of {total:.0f} MB{rate}", done=job.done / MEGABYTE, total=job.total / MEGABYTE, rate=rate)


def wait(runner: Runner, jobs: list[Waiting]) -> None:
    """Keep the bars moving until one of the jobs ends or has something to show, then draw the page again."""
    live = [waiting for waiting in jobs if waiting.job.live]
    if len(live) < len(jobs):
        st.rerun()
    if live:
        st.html(ALL_DRAWN)
    while live:
        for waiting in live:
            show(runner, waiting)
        if not all(waiting.job.live and waiting.job.early is waiting.early for waiting in live):
            st.rerun()
        runner.pause(TICK_SECONDS if any(waiting.job.state == "running" for waiting in live) else QUEUED_SECONDS)
