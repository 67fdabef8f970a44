"""Which edits are in a model, in which order, on which branch: the idea of a ledger, without the edits themselves.

`editing.ledger` keeps these beside its files, with the edits' digests for keys; the page keeps them for a session, with
the keys of what was asked, because its list is drawn before torch is imported and before its edits are computed.
Nothing here is ever changed: every method gives new branches, so that whoever fails to keep them has the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from facts.names import unknown


@dataclass(frozen=True)
class Branches:
    """Sets of edits by name, one of them the current.

    Raises:
        ValueError: if the current branch is not among them.
    """

    by_name: Mapping[str, tuple[str, ...]]
    """Branch -> keys of its edits, oldest first; the branches in the order in which they were begun."""
    current: str
    """The branch that `added` and `without` change."""

    def __post_init__(self) -> None:
        self.edits(self.current)

    def edits(self, name: str | None = None) -> tuple[str, ...]:
        """The edits of a branch, oldest first; by default the current one's.

        Raises:
            ValueError: if there is no such branch.
        """
        name = self.current if name is None else name
        if name not in self.by_name:
            raise ValueError(unknown("branch", name, self.by_name))
        return self.by_name[name]

    def added(self, key: str, position: int | None = None) -> Branches:
        """With one more edit on the current branch, by default as its newest.

        Args:
            position: how many edits it comes after.

        Raises:
            ValueError: if it is there already.
        """
        there = self.edits()
        if key in there:
            raise ValueError(f"the branch {self.current!r} already has this edit, {key[:12]}")
        at = len(there) if position is None else position
        return self.put(self.current, (*there[:at], key, *there[at:]))

    def without(self, key: str) -> Branches:
        """With one edit less on the current branch, wherever it stood."""
        return self.put(self.current, [other for other in self.edits() if other != key])

    def put(self, name: str, keys: Sequence[str]) -> Branches:
        """With these edits on a branch, whether or not it was there."""
        return replace(self, by_name={**self.by_name, name: tuple(keys)})

    def switched(self, name: str) -> Branches:
        """With another branch as the current one.

        Raises:
            ValueError: if there is none of that name.
        """
        return replace(self, current=name)
