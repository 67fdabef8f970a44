"""Whether the server works: what /healthz, /readyz and /metrics answer."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from prometheus_client import generate_latest

from app.server import cache, monitoring
from app.server.jobs import LONGEST_QUEUE, THREADS

LEAST_DISK = 2**30
"""Bytes that must be free where experiments are written."""
MOST_GIVEN_UP = 4
"""Threads given up after which the server should be started again: each keeps its memory."""


def runs_folder() -> Path:
    """Where experiments are kept: `runs` in the folder the server was started in, or what ENGRAM_RUNS names."""
    return Path(os.environ.get("ENGRAM_RUNS") or "runs").absolute()


def problems() -> list[str]:
    """Why the server should get no visitors or be started again; empty while all is well."""
    runner, found = cache.runner(), []
    folder = next(path for path in (runs_folder(), *runs_folder().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        found.append("the folder of experiments cannot be written")
    if (free := shutil.disk_usage(folder).free) < LEAST_DISK:
        found.append(f"only {free / 2**20:.0f} MB of disk are free")
    if runner.given_up >= MOST_GIVEN_UP:
        found.append(f"{runner.given_up} threads hang")
    if len(runner.live()) >= LONGEST_QUEUE:
        found.append("the queue is full")
    if changed := cache.shelf().changed():
        found.append(f"the weights of {', '.join(changed)} have changed in memory")
    return found


def metrics() -> bytes:
    """The numbers in Prometheus' text format."""
    runner = cache.runner()
    counted = Counter((job.lane, job.state) for job in runner.live())
    for lane in THREADS:
        for state in ("queued", "running"):
            monitoring.LIVE.labels(lane, state).set(counted[lane, state])
    monitoring.REPLACED.set(runner.given_up)
    monitoring.EDIT_BYTES.set(cache.drawer().n_bytes)
    monitoring.INTACT.set(not cache.shelf().changed())
    folder = next(path for path in (runs_folder(), *runs_folder().parents) if path.exists())
    monitoring.FREE_BYTES.set(shutil.disk_usage(folder).free)
    return generate_latest()
