"""The runner: leases cells, gives them to an executor, stores the results, and repeats cells whose worker was lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from experiments.kinds import get_kind
from experiments.ledger.leases import Leased
from experiments.ledger.ledger import Ledger
from experiments.ledger.owners import owner as named_owner
from experiments.ledger.schema import LedgerError
from experiments.plan import LOADING
from experiments.workers.inline import Inline
from experiments.workers.messages import (
    Broken,
    Died,
    Executor,
    Failed,
    Finished,
    KillingExecutor,
    Ready,
    Setup,
    Task,
    Working,
)

LEASE = 60.0
"""Seconds a lease lasts without a sign of life; renewed after a third of it."""
DEADLINE = 3600.0
"""Default limit for one cell, seconds."""
_TICK = 0.2
"""Seconds between two checks of the deadlines and of `stop`."""
_GRACE = 1.0
"""Seconds that a cell has to stop by itself after its deadline."""
_LATELY = 300.0
"""Seconds over which `progress_of` takes the rate."""
_RATE_OVER = 200
"""Most finished cells over which a rate is taken."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    done: int
    failed: int
    total: int
    running: int
    """Cells being computed now in this process's workers."""
    rate: float | None
    """Recent cells a second; None before one is finished."""
    seconds_left: float | None
    """Until all cells are finished, at that rate."""

    cell_seconds: float = 0.0
    """How long the oldest of the running cells has been computed."""
    stage: str = ""
    """What that cell is doing, such as "searching 3/20"; empty until it says so."""

    @property
    def left(self) -> int:
        """Cells neither done nor given up."""
        return self.total - self.done - self.failed


def progress_of(ledger: Ledger, run: str) -> Progress:
    """Progress of a run, whichever processes work on it, for a page or a terminal.

    The rate is taken over the results of the last few minutes, of all processes together.
    """
    counts = ledger.counts(run)
    times = ledger.finished(run, _RATE_OVER, since=time.time() - _LATELY)
    return _progress(counts, counts["leased"], _rate(len(times), times[-1], times[0]) if times else None)


def _progress(counts: Mapping[str, int], running: int, rate: float | None) -> Progress:
    total = sum(counts.values())
    left = total - counts["done"] - counts["failed"]
    return Progress(counts["done"], counts["failed"], total, running, rate, left / rate if rate else None)


def _rate(finished: int, first: float, last: float) -> float | None:
    """Cells a second over `finished` results between the times `first` and `last`."""
    return (finished - 1) / (last - first) if finished > 1 and last > first else None


class RunBrokenError(RuntimeError):
    """No worker can compute the cells; the message says why.  Finished results are kept."""


def execute(
    ledger: Ledger,
    run: str,
    executor: Executor,
    *,
    deadline: float | None = DEADLINE,
    lease: float = LEASE,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Compute every cell of a run that is not done; returns when none is left or `stop` returns True.

    Several calls may work on the same run, in one process or in several; each cell is computed by one of them.

    Args:
        executor: where cells run; started and closed here.
        deadline: limit for one cell, seconds.
        lease: seconds without a sign of life after which another process may take over this one's cells.
        progress: called after every event, and at least about once a second.
        stop: once it returns True, running cells are finished and no others begun.

    Raises:
        LedgerFullError: if a result cannot be written; everything before it is kept.
        RunBrokenError: if no worker can load the model, or it is not the plan's.
    """
    info = ledger.info(run)
    modules = tuple(sorted({get_kind(name).module for name in ledger.kinds(run)}))
    setup = Setup(info.model, info.dtype, info.device, dict(info.identity), modules, **info.about.get(LOADING, {}))
    with named_owner() as owner, _alive(ledger, run, owner, executor.name, lease):
        try:
            executor.start(setup)
            return _Work(ledger, run, owner, executor, deadline, lease, progress, stop).all()
        finally:
            executor.close()
            with suppress(LedgerError):  # if the disk is full, others still see that the owner has ended
                ledger.release(owner)


class _Work:
    """One call of `execute`."""

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        owner: str,
        executor: Executor,
        deadline: float | None,
        lease: float,
        progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool],
    ) -> None:
        self.ledger, self.run, self.owner, self.executor = ledger, run, owner, executor
        self.deadline, self.lease, self.progress, self.stop = deadline, lease, progress, stop
        self.killing = executor if isinstance(executor, KillingExecutor) else None
        self.free: set[int] = set()
        self.held: dict[int, deque[Leased]] = {slot: deque() for slot in range(executor.slots)}
        self.busy: dict[int, tuple[Leased, float]] = {}
        self._count()
        self.finished: deque[float] = deque(maxlen=_RATE_OVER)
        self.first_seconds = 0.0
        self.stages: dict[int, str] = {}
        if isinstance(executor, Inline):
            executor.hear = self._hear

    def all(self) -> Progress:
        """Run until no cell is left, or `stop`."""
        while True:
            stopping = self.stop()
            if not stopping:
                self._hand_out()
            if not self.busy and (stopping or not self._left()):
                self._count()
                if stopping or not self._left():
                    return self._tell()
            for event in self.executor.wait(_TICK):
                self._take(event)
            self._kill_late()
            self._tell()

    def _hand_out(self) -> None:
        """Give every waiting slot a cell, of its current group if that has more."""
        for slot in sorted(self.free):
            if not self.held[slot]:
                self.held[slot] = deque(self.ledger.lease(self.run, self.owner, slot, self.lease))
            if not self.held[slot]:
                continue
            cell = self.held[slot].popleft()
            if get_kind(cell.kind).version != cell.version:
                reason = f"the kind {cell.kind!r} computes something else since the run was planned; plan it anew"
                self._fail(cell.key, reason, True)
                continue
            self.free.discard(slot)
            self.busy[slot] = (cell, monotonic())
            self.stages.pop(slot, None)
            self.executor.submit(
                slot, Task(cell.key, cell.kind, dict(cell.spec), cell.group, cell.halvings, self.deadline)
            )

    def _take(self, event: Any) -> None:
        match event:
            case Ready(slot):
                self.free.add(slot)
            case Finished(slot, key, payload, notes):
                self._over(slot)
                if self.ledger.put(key, payload, notes):
                    self.counts["done"] += 1
                    self.counts["leased"] -= 1
                    self.finished.append(monotonic())
                    self.first_seconds = self.first_seconds or float(notes.get("seconds", 0.0))
            case Failed(slot, key, reason, final):
                self._over(slot)
                self._fail(key, reason, final)
            case Died(slot, reason):
                self.free.discard(slot)
                if slot in self.busy:
                    cell, _ = self.busy.pop(slot)
                    self._fail(cell.key, reason, False)
            case Working(slot, stage):
                self.stages[slot] = stage
            case Broken(reason):
                raise RunBrokenError(reason)

    def _hear(self, event: Any) -> None:
        """An event of a cell that runs in this process."""
        self._take(event)
        self._tell()

    def _over(self, slot: int) -> None:
        self.busy.pop(slot, None)
        self.free.add(slot)

    def _fail(self, key: str, reason: str, final: bool) -> None:
        self.ledger.fail(key, self.owner, reason, final=final)
        self._count()

    def _kill_late(self) -> None:
        if self.deadline is None or self.killing is None:
            return
        for slot, (cell, since) in self.busy.items():
            if monotonic() - since > self.deadline + _GRACE:
                self.killing.kill(slot, f"it took longer than its deadline of {self.deadline:g} s")
                self.busy[slot] = (cell, float("inf"))  # killed once is enough

    def _left(self) -> int:
        if monotonic() - self.counted > 1:  # another process may have finished the rest
            self._count()
        return self.counts["todo"] + self.counts["leased"]

    def _count(self) -> None:
        self.counts, self.counted = self.ledger.counts(self.run), monotonic()

    def _tell(self) -> Progress:
        times = self.finished
        rate = _rate(len(times), times[0], times[-1]) if times else None
        if rate is None and self.first_seconds:
            rate = self.executor.slots / self.first_seconds
        now = _progress(self.counts, len(self.busy), rate)
        if self.busy:
            slot, (_, since) = min(self.busy.items(), key=lambda item: item[1][1])
            now = replace(now, cell_seconds=max(0.0, monotonic() - since), stage=self.stages.get(slot, ""))
        if self.progress:
            self.progress(now)
        return now


@contextmanager
def _alive(ledger: Ledger, run: str, owner: str, executor: str, lease: float) -> Iterator[None]:
    """Renew the owner's leases after each third of their time, in a separate thread."""
    over = threading.Event()

    def beats() -> None:
        while not over.wait(lease / 3):
            with suppress(LedgerError):  # storing the next result raises the same error
                ledger.beat(run, owner, executor, lease)

    ledger.beat(run, owner, executor, lease)
    thread = threading.Thread(target=beats, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
