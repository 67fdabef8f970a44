"""One piece of slow work: its question, its state, its progress and its result."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from facts.watch import Watch

State = Literal["queued", "running", "done", "failed", "cancelled"]
Lane = Literal["long", "quick", "fetch"]
Work = Callable[[Watch], Any]

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
    early: Any = None
    """What it has found so far, where that is worth showing."""
    error: str = ""
    asked: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """Seconds of the monotonic clock, both."""
    seconds: float = 0.0
    """How long it ran."""
    stop: threading.Event = field(default_factory=threading.Event)
    counted: tuple[float, float] | None = None
    """Time and fraction of the first report of progress: the pace does not count loading a model before it."""
    promised: float = math.inf
    """The earliest end that was guessed so far, in seconds of the monotonic clock."""
    askers: set[str] = field(default_factory=set)
    """Sessions that want the result; the work stops when the last one cancels."""
    superseded: set[str] = field(default_factory=set)
    """Sessions that asked for something newer instead."""
    stopped: float = 0.0
    """When it was told to stop, in seconds of the monotonic clock."""
    thread_lost: bool = False
    """Its thread did not stop and was replaced."""

    @property
    def kind(self) -> str:
        """What kind of question it answers: "trace", "edit"."""
        return self.key.partition("-")[0]

    def halt(self) -> None:
        """Tell the work to stop at its next step."""
        if not self.stop.is_set():
            self.stopped = time.monotonic()
            self.stop.set()

    @property
    def live(self) -> bool:
        """Still queued or running."""
        return self.state in ("queued", "running")

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

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
