"""Slow work outside the page's thread: queues, progress, cancelling, and one run for equal questions.

Every click runs the page again, so nothing slow may be in it.  A `Job` is keyed by a hash of its question: readers who
ask the same question share one run, and a reloaded page finds its job again.  The workers import torch; the page never
waits for that.  Long work (a trace, an edit) has one thread and waits its turn; quick work (reading a
prompt) and downloads have threads of their own, so that they never wait for a trace.  Exceptions stay on the job as one
sentence; the traceback goes to the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facts.watch import Watch

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]

KEPT_RESULTS = 64
LONGEST_QUEUE = 40
Lane = Literal["long", "quick", "fetch"]
THREADS: dict[Lane, int] = {"long": 1, "quick": 2, "fetch": 1}
"""Two quick ones, so that a model that loads slowly does not delay reading a prompt with another model."""
SEEN_SECONDS, SEEN_SHARE = 1.5, 0.04
"""Seconds and share of the work after which the time left is estimated from the pace."""


def job_key(kind: str, question: object) -> str:
    """The same short name for the same question, in every session: kind plus 16 hex digits of a sha256."""
    text = json.dumps([kind, question], sort_keys=True, default=str, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


@dataclass(eq=False)
class Job:
    """One piece of work: its state, its progress and its result."""

    key: str
    label: str
    lane: Lane = "long"
    """The queue it waits in."""
    state: State = "queued"
    done: int = 0
    total: int = 0
    stage: str = ""
    """What it is doing, if it has said so."""
    result: Any = None
    error: str = ""
    started: float = 0.0
    """Seconds of the monotonic clock."""
    seconds: float = 0.0
    """How long it ran."""
    stop: threading.Event = field(default_factory=threading.Event)
    counted: tuple[float, float] | None = None
    """Time and fraction of the first report of progress: the pace does not count loading a model before it."""
    promised: float = math.inf
    """The earliest end that was guessed so far, in seconds of the monotonic clock."""
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

    @property
    def watch(self) -> Watch:
        """The watch of the job's work: it tells the job how far it is, and stops when no session wants the result."""
        return Watch(self.tell, self.stop.is_set)

    def tell(self, done: int, total: int, stage: str = "") -> None:
        """How far it is (see `Watch.tell`)."""
        if stage:
            self.stage = stage
        if total:
            self.done, self.total = done, total
            if self.counted is None:
                self.counted = time.monotonic(), self.fraction

    @property
    def rate(self) -> float | None:
        """Steps a second, or None while too little was seen."""
        if self.counted is None or self.state != "running":
            return None
        since, at = self.counted
        gone = time.monotonic() - since
        return (self.done - at * self.total) / gone if gone >= SEEN_SECONDS else None

    def seconds_left(self) -> float | None:
        """Seconds left, estimated from the pace so far; never rises; None while too little was seen."""
        if self.state != "running" or self.counted is None:
            return None
        (since, at), now = self.counted, time.monotonic()
        gone = self.fraction - at
        if now - since < SEEN_SECONDS or gone < SEEN_SHARE:
            return None
        self.promised = min(self.promised, now + (now - since) * (1 - self.fraction) / gone)
        return max(0.0, self.promised - now)


Work = Callable[[Watch], Any]


class Runner:
    """The worker threads (one for long work: it shares the model's lock) and their jobs, finished ones too."""

    def __init__(self, kept: int = KEPT_RESULTS) -> None:
        self._pools = {
            lane: ThreadPoolExecutor(threads, thread_name_prefix=lane, initializer=_start_worker)
            for lane, threads in THREADS.items()
        }
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._kept = kept

    def submit(self, key: str, label: str, work: Work, asker: str = "", lane: Lane = "long") -> Job:
        """The job of that key: the one that exists, unless it failed or was cancelled; else a new one.

        Args:
            lane: the queue to wait in; work that takes a moment is "quick" and goes ahead of the long.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and (job.state == "done" or (job.live and not job.stop.is_set())):
                job.askers.add(asker)
                self._jobs.move_to_end(key)
                return job
            job = Job(key, label, lane, askers={asker})
            if sum(other.live for other in self._jobs.values()) >= LONGEST_QUEUE:
                job.state, job.error = "failed", "Too many jobs are waiting; try again in a minute."
                return job
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            self._forget_old()
        self._pools[lane].submit(self._run, job, work)
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
        before = others[: others.index(job)] if job in others else []
        return sum(other.live and other.lane == job.lane for other in before)

    def cancel(self, job: Job, asker: str = "") -> None:
        """One session cancels; the work stops at its next step if no other session waits for it."""
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
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job, work: Work) -> None:
        with self._lock:
            if job.state != "queued":
                return
            job.state, job.started = "running", time.monotonic()

        try:
            job.result = work(job.watch)
            job.state = "done"
        # The thread must survive any failure, and the reader must be told: only this place catches every exception.
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
    """What the reader is told.  Our own errors are written for readers; others are logged under a number."""
    if isinstance(error, ValueError | OSError | KeyError) and _is_ours(error):
        text = str(error.args[0]) if error.args else str(error)
        return text[:1].upper() + text[1:]
    number = uuid.uuid4().hex[:8]
    logger.error("failure %s", number, exc_info=error)
    if isinstance(error, MemoryError):
        return f"The computer ran out of memory; choose fewer samples or a smaller model (log line {number})."
    return f"Something failed that was not foreseen; the server's log has the details under {number}."


def _is_ours(error: Exception) -> bool:
    """Whether a file of this project raised it, so that its words are meant for readers."""
    root = str(Path(__file__).resolve().parents[2])
    traceback = error.__traceback__
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return file.startswith(root) and f"{os.sep}site-packages{os.sep}" not in file


_importing = threading.Lock()


def _start_worker() -> None:
    # One thread at a time: two first imports of packages that import one another may meet a half-imported one.
    with _importing:
        import torch

        import app.workflow  # noqa: F401 - what nearly every job uses

    # Half of the processors: the page and other sessions need some, and more threads than free cores are many times
    # slower than one (measured on a busy machine).
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(wanted) if wanted.isdigit() else max(1, (os.cpu_count() or 1) // 2))
