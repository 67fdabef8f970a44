"""Slow work off the page's thread: one worker, a queue, progress, cancel, and one run for many askers.

The page is re-run by every click, so nothing slow may live in it.  A `Job` is keyed by a hash of what was asked: thirty
readers who ask the same question share one run, and a reloaded page finds its job again.  The worker imports torch; the
page never waits for that.  Exceptions stay on the job as one sentence; the traceback goes to the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
Cancelled = Callable[[], bool]
"""Asked between steps; true once nobody wants the result any more."""
Work = Callable[[Progress, Cancelled], Any]
State = Literal["queued", "running", "done", "failed", "cancelled"]

KEPT_RESULTS = 64
LONGEST_QUEUE = 40


def job_key(kind: str, question: object) -> str:
    """The same short name for the same question, in every session: kind plus 16 hex digits of a sha256."""
    text = json.dumps([kind, question], sort_keys=True, default=str, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


@dataclass(eq=False)
class Job:
    """One piece of work: where it stands, and what came of it."""

    key: str
    label: str
    state: State = "queued"
    done: int = 0
    total: int = 0
    result: Any = None
    error: str = ""
    started: float = 0.0
    """Seconds of the monotonic clock."""
    seconds: float = 0.0
    """How long it ran."""
    stop: threading.Event = field(default_factory=threading.Event)
    askers: set[str] = field(default_factory=set)
    """Sessions that want the result; the work stops when the last one cancels."""

    @property
    def live(self) -> bool:
        """Still queued or running."""
        return self.state in ("queued", "running")

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def seconds_left(self) -> float | None:
        """A guess from the pace so far, or None when there is nothing to guess from."""
        if self.state != "running" or not self.done or not self.total:
            return None
        return (time.monotonic() - self.started) * (self.total - self.done) / self.done


class Runner:
    """One worker thread (the model's lock allows no more) and the jobs it has, had, or will have."""

    def __init__(self, kept: int = KEPT_RESULTS) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=_start_worker)
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._kept = kept

    def submit(self, key: str, label: str, work: Work, asker: str = "") -> Job:
        """The job of that key: the one that exists, unless it failed or was cancelled; else a new one."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and (job.state == "done" or (job.live and not job.stop.is_set())):
                job.askers.add(asker)
                self._jobs.move_to_end(key)
                return job
            job = Job(key, label, askers={asker})
            if sum(other.live for other in self._jobs.values()) >= LONGEST_QUEUE:
                job.state, job.error = "failed", "Too many people are waiting just now; try again in a minute."
                return job
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            self._forget_old()
        self._pool.submit(self._run, job, work)
        return job

    def get(self, key: str | None) -> Job | None:
        """The job of that key, if it is still remembered."""
        with self._lock:
            return self._jobs.get(key) if key else None

    def ahead(self, job: Job) -> int:
        """How many other jobs will be finished before this one starts."""
        if job.state != "queued":
            return 0
        with self._lock:
            others = list(self._jobs.values())
        return sum(other.live for other in others[: others.index(job)]) if job in others else 0

    def cancel(self, job: Job, asker: str = "") -> None:
        """One asker gives up; the work stops at its next step if nobody else waits for it."""
        with self._lock:
            job.askers.discard(asker)
            if job.askers or not job.live:
                return
            job.stop.set()
            if job.state == "queued":
                job.state = "cancelled"

    def close(self) -> None:
        """Stop everything; for tests."""
        with self._lock:
            for job in self._jobs.values():
                job.stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job, work: Work) -> None:
        with self._lock:
            if job.state != "queued":
                return
            job.state, job.started = "running", time.monotonic()

        def progress(done: int, total: int) -> None:
            job.done, job.total = done, total

        try:
            job.result = work(progress, job.stop.is_set)
            job.state = "done"
        # The thread must outlive any failure, and the reader must be told: this is the one place that catches all.
        except Exception as error:
            if job.stop.is_set():
                job.state = "cancelled"
            else:
                job.error = sentence(error)
                job.state = "failed"
        finally:
            job.seconds = time.monotonic() - job.started

    def _forget_old(self) -> None:
        finished = [key for key, job in self._jobs.items() if not job.live]
        for key in finished[: max(0, len(finished) - self._kept)]:
            del self._jobs[key]


def sentence(error: Exception) -> str:
    """What the reader is told.  Our own errors are written for readers; all else is logged and named by a number."""
    if isinstance(error, ValueError | FileNotFoundError | KeyError) and _is_ours(error):
        text = str(error.args[0]) if error.args else str(error)
        return text[:1].upper() + text[1:]
    number = uuid.uuid4().hex[:8]
    logger.error("failure %s", number, exc_info=error)
    if isinstance(error, MemoryError):
        return f"The computer ran out of memory; choose fewer samples or a smaller model (log line {number})."
    return f"This did not work, and the reason was not foreseen; the server's log has it under {number}."


def _is_ours(error: Exception) -> bool:
    """Raised by a file of this project, so its words are meant for readers."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    traceback = error.__traceback__
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return file.startswith(root) and f"{os.sep}site-packages{os.sep}" not in file


def _start_worker() -> None:
    import torch

    # Half of the processors: the page and the other sessions need some, and more threads than free cores are many
    # times slower than one (measured on a busy machine).
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(wanted) if wanted.isdigit() else max(1, (os.cpu_count() or 1) // 2))
