"""Long work as its caller sees it: how far it is, what it is doing, and whether it is still wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class Cancelled(Exception):  # noqa: N818 - a wish of the caller, not an error
    """The caller asked the work to stop; nothing it changed remains."""


@dataclass(frozen=True)
class Watch:
    """Passed down through long work.  The default watches nothing.

    Args:
        tell: called with (steps done, steps in all, name of the stage); an empty name leaves the stage as it was, and
            0 steps in all leave the count as it was.
        cancelled: says whether the work is to stop.
    """

    tell: Callable[[int, int, str], None] | None = None
    cancelled: Callable[[], bool] | None = None

    def check(self) -> None:
        """Stop here if the caller asked for it.

        Raises:
            Cancelled: if so.
        """
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def step(self, done: int, of: int, stage: str = "") -> None:
        """Tell how many steps of how many are done, and `check`."""
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
