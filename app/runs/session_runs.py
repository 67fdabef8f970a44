"""The runs of one session: what the Workbench traced and scored, and saved ones that were opened from files."""

from __future__ import annotations

import csv
import io
import re
import zipfile

import streamlit as st

from app.runs.saved import Saved, SavedTrace, read_run
from app.runs.two_runs import overview
from app.server import cache
from app.server.jobs import Job, Runner

MOST = 100
"""Runs of one session; the oldest go first."""


def all_runs() -> list[Saved]:
    """The newest first."""
    collect()
    found: dict[str, Saved] = st.session_state.runs
    return list(found.values())[::-1]


def collect() -> None:
    """Take in what this session's last questions to the Workbench have been answered with."""
    session = st.session_state
    session.setdefault("runs", {})
    seen: set[str] = session.setdefault("runs_seen", set())
    for name in ("trace_ask", "score_ask"):
        ask = session.get(name)
        job = cache.runner().get(ask.key) if ask is not None else None
        if job is None or job.state != "done" or job.key in seen:
            continue
        seen.add(job.key)
        for result in job.result.results if name == "trace_ask" else (job.result,):
            add(read_run(result.to_json()))


def live(runner: Runner) -> list[Job]:
    """The Workbench's last questions that are still being answered."""
    asks = (st.session_state.get(name) for name in ("trace_ask", "score_ask"))
    jobs = (runner.get(ask.key) for ask in asks if ask is not None)
    return [job for job in jobs if job is not None and job.live]


def add(run: Saved) -> None:
    """Keep a run; one that is there already moves to the front."""
    runs: dict[str, Saved] = st.session_state.setdefault("runs", {})
    runs.pop(run.key, None)
    runs[run.key] = run
    while len(runs) > MOST:
        del runs[next(iter(runs))]


def open_file(name: str, data: bytes) -> str:
    """Take in a saved run; what is wrong with it, or nothing.

    Args:
        name: what the reader calls the file.
    """
    try:
        add(read_run(data))
    except ValueError as error:
        return f"{name}: {error}."
    return ""


def forget(keys: list[str]) -> None:
    """Callback: take runs off the list."""
    for key in keys:
        st.session_state.runs.pop(key, None)


def file_name(run: Saved, number: int | None = None) -> str:
    """A name for the run's file."""
    kind = f"trace-{run.site.partition('_')[0]}" if isinstance(run, SavedTrace) else f"edit-{run.method}"
    words = re.sub(r"[^\w-]+", "-", f"{kind}-{run.subject}").strip("-").lower()[:80]
    return f"{words}.json" if number is None else f"{number:03d}-{words}.json"


def zipped(runs: list[Saved]) -> bytes:
    """Every run's JSON, and a table of them all.  The same runs give the same bytes."""
    table = io.StringIO(newline="")
    rows = [{"file": file_name(run, i)} | row for i, (run, row) in enumerate(zip(runs, overview(runs), strict=True), 1)]
    writer = csv.DictWriter(table, list(rows[0]) if rows else ["file"])
    writer.writeheader()
    writer.writerows({name: _defused(value) for name, value in row.items()} for row in rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [
            ("runs.csv", table.getvalue()),
            *((file_name(run, i), run.text) for i, run in enumerate(runs, 1)),
        ]:
            archive.writestr(zipfile.ZipInfo(name), text.encode("utf-8", "surrogatepass"))
    return packed.getvalue()


def _defused(value: str) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
