"""The facts of a dataset's file, for commands that trace or edit them: what can be used, and what was set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from facts.importers.errors import Rejected
from facts.importers.read import read_cases
from facts.importers.text import Source, name_of
from facts.types import Case, Fact

T = TypeVar("T")
LISTED = 5
"""Rows named at most, of those that were set aside."""


@dataclass(frozen=True)
class CaseList:
    """A file's cases, and the rows that cannot be read."""

    cases: tuple[Case, ...]
    rejected: tuple[Rejected, ...]
    """The first of them."""
    n_rejected: int

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence that names rows set aside; none if all were read."""
        if not self.n_rejected:
            return ()
        more = f"; and {self.n_rejected - len(self.rejected)} more" if self.n_rejected > len(self.rejected) else ""
        what = "1 row was" if self.n_rejected == 1 else f"{self.n_rejected} rows were"
        return (f"{what} set aside: {'; '.join(map(str, self.rejected))}{more}",)


@dataclass(frozen=True)
class FactList:
    """Facts whose prompts name their subjects, in the file's order."""

    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    """What was set aside, a sentence each."""


def list_cases(source: Source, most: int | None = None) -> CaseList:
    """The cases of a file in any format; rows that cannot be read are set aside.

    Args:
        most: stop after so many cases.

    Raises:
        ValueError: if the file cannot be read or its format is not known.
    """
    rejected: list[Rejected] = []
    count = 0

    def aside(row: Rejected) -> None:
        nonlocal count
        count += 1
        if len(rejected) < LISTED:
            rejected.append(row)

    cases: list[Case] = []
    for case in read_cases(source, on_rejected=aside):
        if len(cases) == most:
            break
        cases.append(case)
    return CaseList(tuple(cases), tuple(rejected), count)


def read_facts(source: Source, most: int | None = None) -> FactList:
    """The facts of a file that can be traced: known ones, and those that its rewrites are about.

    A fact whose prompt does not hold its subject is set aside: there is nothing in it to corrupt but the whole prompt.

    Args:
        most: stop after so many cases.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, its format is not known, or no fact is left.
    """
    if isinstance(source, str | Path) and not Path(source).exists():
        raise FileNotFoundError(f"there is no file {str(source)!r}")
    found = list_cases(source, most)
    facts = [fact for case in found.cases for fact in case.facts]
    named = tuple(fact for fact in facts if fact.names_subject)
    notes = found.notes
    if len(named) < len(facts):
        first = next(fact for fact in facts if not fact.names_subject)
        notes += (
            f"{len(facts) - len(named)} facts were set aside, since their prompts do not hold a subject, such as "
            f"{first.prompt[:80]!r}",
        )
    if not named:
        raise ValueError(f"{name_of(source)} holds no fact that can be used{''.join(f'; {note}' for note in notes)}")
    return FactList(named, notes)


def answered(items: Iterable[T], fact_of: Callable[[T], Fact], source: Source) -> tuple[list[T], int]:
    """The items whose fact has a true answer, by which is told whether a model knows it; and how many have none.

    Raises:
        ValueError: if none has one.
    """
    every = list(items)
    told = [item for item in every if fact_of(item).target_true.strip()]
    if every and not told:
        raise ValueError(
            f"{name_of(source)} states no true answer, by which the facts that a model knows are told; "
            "add one to each row, such as target_true"
        )
    return told, len(every) - len(told)
