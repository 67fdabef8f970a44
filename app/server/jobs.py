"""Slow work outside the page's thread: queues, progress, cancelling, and one run for equal questions.

Every click runs the page again, so nothing slow may be in it.  A `Job` is keyed by a hash of its question: readers who
ask the same question share one run, and a reloaded page finds its job again.  The workers import torch; the page never
waits for that.  Long work (a trace, an edit) has one thread and waits its turn; quick work (reading a
prompt) and downloads have threads of their own, so that they never wait for a trace.  Exceptions stay on the job as one
sentence; the traceback goes to the log.

Nobody can hold the queue: a session has one running and one waiting job in the long lane, jobs are dropped when the
last session that asked has disconnected, each has a deadline, and a thread that does not stop is replaced.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from app.server import limits
from app.server.errors import sentence
from app.server.job import Job, Lane, State, Work
from facts.watch import Cancelled, Watch

logger = logging.getLogger(__name__)

KEPT_RESULTS = 1000
LONGEST_QUEUE = 250
THREADS: dict[Lane, int] = {"long": 1, "quick": 2, "fetch": 1}
"""Two quick ones, so that a model that loads slowly does not delay reading a prompt with another model."""
DEADLINES: dict[Lane, float] = {"long": 3600.0, "quick": 300.0, "fetch": 6 * 3600.0}
"""Seconds that a job may run; a quick one may have to load the model."""
GRACE_SECONDS = 60.0
"""Time for a stopped job to come to its next step; then its thread is given up."""
AWAY_SECONDS = 5.0
"""Time for a session to connect again before its jobs are dropped."""


class Runner:
    """The worker threads of each lane, the jobs that wait for them, and finished jobs.

    First come, first served; as a session has one waiting job in the long lane, sessions take turns there.
    """

    def __init__(
        self,
        kept: int = KEPT_RESULTS,
        present: Callable[[str], bool] = lambda asker: True,
        deadlines: Mapping[Lane, float] = DEADLINES,
        stuck: Callable[[], None] = lambda: None,
        ended: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """A runner without threads, which start with the first job.

        Args:
            kept: finished jobs that are remembered.
            present: whether a session is still connected; the jobs of others are dropped.
            deadlines: seconds that a job of each lane may run.
            stuck: called when a thread did not stop, so that what it holds can be let go of.
            ended: called with each job that has ended.
        """
        self._present, self._deadlines, self._stuck, self._ended = present, deadlines, stuck, ended
        self._changed = threading.Condition(threading.RLock())
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: list[tuple[Job, Work]] = []
        self._threads: list[threading.Thread] = []
        self._seen: dict[str, float] = {}
        self._usual: dict[str, float] = {}
        self._kept = kept
        self._closed = False
        self.given_up = 0
        """Threads that did not stop and were replaced."""

    def submit(self, key: str, label: str, work: Work, asker: str = "", lane: Lane = "long") -> Job:
        """The job of that key: the one that exists, unless it failed or was cancelled; else a new one.

        A session's older job of the same kind is dropped, and so is its waiting job in the long lane.

        Args:
            lane: the queue to wait in; work that takes a moment is "quick" and goes ahead of the long.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is not None and (job.state == "done" or (job.live and not job.stop.is_set())):
                job.askers.add(asker)
                job.superseded.discard(asker)
                self._jobs.move_to_end(key)
                return job
            job = Job(key, label, lane, askers={asker})
            self._supersede(job, asker)
            if len(self._waiting) >= LONGEST_QUEUE:
                job.state, job.error = "failed", "Too many jobs are waiting; try again in a minute."
                return job
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            self._forget_old()
            self._waiting.append((job, work))
            self._start()
            self._changed.notify_all()
        return job

    def get(self, key: str | None) -> Job | None:
        """The job of that key, if it is still remembered."""
        with self._changed:
            return self._jobs.get(key) if key else None

    def ahead(self, job: Job) -> int:
        """How many other jobs will be finished before this one starts."""
        return len(self._before(job))

    def seconds_to_wait(self, job: Job) -> float | None:
        """Seconds until it starts, from the time left of the running job and what jobs like those ahead took."""
        total = 0.0
        for other in self._before(job):
            usual, left = self._usual.get(other.kind), other.seconds_left()
            if left is None and usual is None:
                return None
            gone = time.monotonic() - other.started if other.state == "running" else 0.0
            total += left if left is not None else max(0.0, (usual or 0.0) - gone)
        return total

    def live(self) -> list[Job]:
        """Jobs that run or wait."""
        with self._changed:
            return [job for job in self._jobs.values() if job.live]

    def cancel(self, job: Job, asker: str = "") -> None:
        """One session cancels; the work stops at its next step if no other session waits for it."""
        with self._changed:
            job.askers.discard(asker)
            if job.askers or not job.live:
                return
            job.halt()
            if job.state == "queued":
                job.state = "cancelled"
                self._waiting = [pair for pair in self._waiting if pair[0] is not job]

    def look_around(self) -> None:
        """Drop jobs that nobody is there for, stop those past their deadline, replace threads that do not stop.

        Called every second.
        """
        now = time.monotonic()
        with self._changed:
            for job in self.live():
                for asker in list(job.askers):
                    if self._present(asker):
                        self._seen[asker] = now
                    elif now - self._seen.setdefault(asker, now) > AWAY_SECONDS:
                        self.cancel(job, asker)
                if job.state != "running":
                    continue
                if not job.stop.is_set() and now - job.started > self._deadlines[job.lane]:
                    job.error = _too_long(self._deadlines[job.lane])
                    job.halt()
                elif job.stop.is_set() and now - job.stopped > GRACE_SECONDS:
                    self._give_up(job)
            asked = {asker for job in self.live() for asker in job.askers}
            self._seen = {asker: when for asker, when in self._seen.items() if asker in asked}

    def close(self, seconds: float = 60.0) -> bool:
        """Stop everything; whether all threads ended within so many seconds."""
        with self._changed:
            self._closed = True
            for job in self.live():
                job.halt()
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _before(self, job: Job) -> list[Job]:
        """Running and waiting jobs of its lane that come before a waiting one."""
        with self._changed:
            waiting = [other for other, _ in self._waiting if other.lane == job.lane]
            if job not in waiting:
                return []
            running = [other for other in self.live() if other.state == "running" and other.lane == job.lane]
            return running + [other for other in waiting[: waiting.index(job)] if self._wanted(other)]

    def _wanted(self, job: Job) -> bool:
        return any(map(self._present, job.askers))

    def _supersede(self, new: Job, asker: str) -> None:
        for job in self.live():
            if not asker or asker not in job.askers or job.lane != new.lane:
                continue
            if job.kind != new.kind:
                if job.lane != "long" or job.state != "queued":
                    continue
                job.superseded.add(asker)  # the page still shows it, and must not ask for it again by itself
            self.cancel(job, asker)

    def _start(self) -> None:
        """Start the threads, with the first job."""
        if not self._threads:
            for lane, count in THREADS.items():
                for _ in range(count):
                    self._thread(self._work, lane)
            self._thread(self._every_second)

    def _thread(self, target: Callable[..., None], *arguments: str) -> None:
        # daemons: a thread that hangs must not keep the process alive
        thread = threading.Thread(target=target, args=arguments, name="-".join(["job", *arguments]), daemon=True)
        self._threads.append(thread)
        thread.start()

    def pause(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as a job has come, has ended or has an early result."""
        with self._changed:
            self._changed.wait(seconds)

    def _every_second(self) -> None:
        with self._changed:
            while not self._closed:
                self._changed.wait(1.0)
                self.look_around()

    def _work(self, lane: Lane) -> None:
        """What a thread does: one job after the other, until it was given up."""
        _start_worker()
        while (taken := self._next(lane)) is not None:
            self._run(*taken)
            if taken[0].thread_lost:
                return

    def _next(self, lane: Lane) -> tuple[Job, Work] | None:
        """The next job of a lane, marked as running; None once the runner is closed."""
        with self._changed:
            while not self._closed:
                busy = {who for job in self.live() if job.state == "running" and job.lane == lane for who in job.askers}
                for pair in self._waiting:
                    job = pair[0]
                    # one running job a session; askers without a name are no session
                    if job.lane == lane and self._wanted(job) and (job.askers - busy or "" in job.askers):
                        self._waiting.remove(pair)
                        job.state, job.started = "running", time.monotonic()
                        return pair
                self._changed.wait(1.0)  # a session may have come back
        return None

    def _run(self, job: Job, work: Work) -> None:
        result, error = None, ""
        try:
            result = work(Watch(job.tell, job.stop.is_set, partial(self._show, job)))
        # The thread must survive any failure, and the reader must be told: only this place catches every exception.
        except Exception as raised:
            error = "" if job.stop.is_set() else sentence(raised)
            if not error and not job.error and not isinstance(raised, Cancelled):
                logger.warning("a cancelled job failed", exc_info=raised)
            self._end(job, "failed" if error or job.error else "cancelled", error or job.error)
        else:
            self._end(job, "done", "", result)

    def _show(self, job: Job, early: object) -> None:
        """Keep an early result for the page, and tell the page that it is there."""
        with self._changed:
            job.early = early
            self._changed.notify_all()

    def _end(self, job: Job, state: State, error: str, result: Any = None) -> None:
        with self._changed:
            if job.state != "running":  # it was given up
                return
            job.seconds = time.monotonic() - job.started
            job.result, job.error, job.state = result, error, state
            if state == "done":
                self._usual[job.kind] = (self._usual.get(job.kind, job.seconds) + job.seconds) / 2
            self._changed.notify_all()
        self._ended(job)

    def _give_up(self, job: Job) -> None:
        """Leave the thread of a job that does not stop to itself, and start another in its place."""
        job.thread_lost = True
        self.given_up += 1
        logger.error("job %s did not stop; its thread was replaced", job.key)
        self._end(job, "failed", job.error or "It could not be stopped and was given up.")
        self._stuck()
        self._thread(self._work, job.lane)

    def _forget_old(self) -> None:
        finished = [key for key, job in self._jobs.items() if not job.live]
        for key in finished[: max(0, len(finished) - self._kept)]:
            del self._jobs[key]


def _too_long(seconds: float) -> str:
    most = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return f"It was stopped after {most}, the most a job may take here; choose fewer samples or a smaller model."


_importing = threading.Lock()


def _start_worker() -> None:
    # One thread at a time: two first imports of packages that import one another may meet a half-imported one.
    with _importing:
        import torch

        import app.workflow  # noqa: F401 - what nearly every job uses

        gc.freeze()  # the libraries' objects stay: a collection need not look at them
    # With many readers half of the processors: the page and other sessions need some, and more threads than free cores
    # are many times slower than one (measured on a busy machine).
    if limits.public() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
