"""Progress of long work, and its cancellation by the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class Cancelled(Exception):  # noqa: N818 - a wish of the caller, not an error
    """The caller cancelled the work; none of its changes remain."""


@dataclass(frozen=True)
class Watch:
    """Progress callback and cancel question, passed down through long work.  The default has neither.

    Args:
        tell: called with (steps done, steps in all, name of the stage); an empty name leaves the stage as it was, and
            0 steps in all leave the count as it was.
        cancelled: whether the work should stop.
        show: called with an early result that is worth looking at; it is None where nobody would look.
    """

    tell: Callable[[int, int, str], None] | None = None
    cancelled: Callable[[], bool] | None = None
    show: Callable[[object], None] | None = None

    def check(self) -> None:
        """Stop here if the caller cancelled.

        Raises:
            Cancelled: if so.
        """
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def step(self, done: int, of: int, stage: str = "") -> None:
        """Report that `done` of `of` steps are done, then `check`."""
        if self.tell is not None:
            self.tell(done, of, stage)
        self.check()

    def part(self, first: int, last: int, of: int = 100) -> Watch:
        """The watch of a part of the work, which takes the steps from `first` to `last` of `of`."""
        tell = self.tell
        if tell is None:
            return self

        def tell_whole(done: int, total: int, stage: str) -> None:
            tell(first + (last - first) * min(done, total) // max(total, 1), of, stage)

        return Watch(tell_whole, self.cancelled)


UNWATCHED = Watch()
