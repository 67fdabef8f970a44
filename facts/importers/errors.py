"""Rows that cannot be read: the errors while reading, and the record of such a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_FIELD = 200
"""Characters shown of a field's path; a hostile file may name its fields as it likes."""


def shown(name: str) -> str:
    """A field's name for a message: on one line and shortened."""
    return "".join(character if character.isprintable() else " " for character in name[:MAX_FIELD])


class RowError(ValueError):
    """One field of one row cannot be used.  `field` is its path in the row, empty for the row as a whole."""

    def __init__(self, field: str, reason: str) -> None:
        field = shown(field)
        super().__init__(f"{field} {reason}" if field else reason)
        self.field = field
        self.reason = reason


class SameAnswerError(RowError):
    """A row's new answer is one of its true ones, so that a model that does nothing would pass."""


@dataclass(frozen=True)
class Raw:
    """A row as the file has it, or why it cannot be read.  One of `value` and `error` is given."""

    line: int
    text: str
    value: dict[str, Any] | None = None
    error: RowError | None = None


@dataclass(frozen=True)
class Rejected:
    """A row set aside."""

    row: int
    """Place in the file, the first row being 1; the header of a CSV file is no row."""
    line: int
    """Line of the file on which the row begins, the first being 1."""
    field: str
    """Path of the field, such as "requested_rewrite.target_new.str"; empty for the row as a whole."""
    reason: str
    raw: str
    """The row's text as it stands in the file."""
    same_answer: bool = False
    """Whether it is set aside since its new answer is one of its true ones; else it cannot be read."""

    def __str__(self) -> str:
        return f"row {self.row} (line {self.line}): {self.field + ' ' if self.field else ''}{self.reason}"


OnRejected = Callable[[Rejected], None]


class BadRowError(ValueError):
    """Raised at the first row that cannot be read if no `on_rejected` was given."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(f"{rejected}; mend the row, or give on_rejected to set such rows aside")
        self.rejected = rejected
