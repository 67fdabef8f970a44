"""The runs of one session: what the Workbench traced and scored, and what was opened from files."""

from __future__ import annotations

from app.server import cache
from app.server.job import Job
from app.server.jobs import Runner
from app.session.run import Run, edit_run, trace_run
from app.session.session import session

MOST = 100
"""Runs of one session; the oldest go first."""


def all_runs() -> list[Run]:
    """The newest first."""
    collect()
    return list(session().runs.values())[::-1]


def collect() -> None:
    """Add the answers to the Workbench's last questions."""
    mine = session()
    for ask in (mine.trace_ask, mine.score_ask):
        job = cache.runner().get(ask.key) if ask is not None else None
        if job is None or job.state != "done" or job.key in mine.runs_seen:
            continue
        mine.runs_seen.add(job.key)
        for run in map(trace_run, job.result.results) if ask is mine.trace_ask else [edit_run(job.result)]:
            add(run)


def live(runner: Runner) -> list[Job]:
    """The Workbench's last questions that are still being answered."""
    asks = (session().trace_ask, session().score_ask)
    jobs = (runner.get(ask.key) for ask in asks if ask is not None)
    return [job for job in jobs if job is not None and job.live]


def add(run: Run) -> None:
    """Keep a run; one that is there already moves to the front."""
    runs = session().runs
    runs.pop(run.key, None)
    runs[run.key] = run
    while len(runs) > MOST:
        del runs[next(iter(runs))]


def forget(keys: list[str]) -> None:
    """Callback: remove runs from the list."""
    for key in keys:
        session().runs.pop(key, None)
