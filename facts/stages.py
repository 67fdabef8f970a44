"""What long work is doing just now, for whoever shows its progress.

Progress is a callable of (steps done, steps in all).  One that wants to show the name of a stage has a method `stage`;
any other works as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from facts.watch import Watch

Steps = Callable[[int, int], None]


def name_stage(progress: Steps | None, name: str) -> None:
    """Say what the steps that follow are, such as "tracing"."""
    tell = getattr(progress, "stage", None)
    if tell is not None:
        tell(name)


def part(progress: Steps | None, first: int, last: int, total: int = 100) -> Steps | None:
    """Progress of a part of the work, which takes the steps from `first` to `last` of `total`."""
    return None if progress is None else Part(progress, first, last, total)


@dataclass(frozen=True)
class Part:
    """See `part`."""

    whole: Steps
    first: int
    last: int
    total: int

    def __call__(self, done: int, total: int) -> None:
        """Tell the whole how far the part is."""
        self.whole(self.first + (self.last - self.first) * min(done, total) // max(total, 1), self.total)

    def stage(self, name: str) -> None:
        """Name the stage of the whole."""
        name_stage(self.whole, name)


def watch_of(progress: Steps | None = None, cancelled: Callable[[], bool] | None = None) -> Watch:
    """The `Watch` of a caller that still holds a progress callable, with a method `stage` or without."""
    if progress is None:
        return Watch(cancelled=cancelled)

    def tell(done: int, of: int, stage: str) -> None:
        if stage:
            name_stage(progress, stage)
        if of:
            progress(done, of)

    return Watch(tell, cancelled)
