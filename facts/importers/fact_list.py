"""The usable facts of a dataset's file, for commands that trace or edit them, and the rows that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from facts.importers.errors import Rejected
from facts.importers.files.text import Source, name_of
from facts.importers.read import read_cases
from facts.types import Case, Fact
from facts.words import counted

T = TypeVar("T")
WERE = ("was", "were")
LISTED = 5
"""Rows named at most, of those that were set aside."""


@dataclass(frozen=True)
class CaseList:
    """A file's cases, and the rows that are set aside."""

    cases: tuple[Case, ...]
    unreadable: SetAside
    same_answers: SetAside
    """Rows whose new answer is one of the true ones."""

    @property
    def n_rejected(self) -> int:
        """Rows set aside in all."""
        return self.unreadable.n + self.same_answers.n

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each kind of row set aside; none if all were read."""
        return (*self.unreadable.notes(), *self.same_answers.notes(", since the new answer is a true one"))


@dataclass
class SetAside:
    """Rows of one kind that are set aside: how many, and the first of them."""

    n: int = 0
    first: list[Rejected] = field(default_factory=list)

    def add(self, row: Rejected) -> None:
        """One more."""
        self.n += 1
        if len(self.first) < LISTED:
            self.first.append(row)

    def notes(self, why: str = "") -> tuple[str, ...]:
        """A sentence that counts and names them; none if there are none."""
        if not self.n:
            return ()
        more = f"; and {self.n - len(self.first)} more" if self.n > len(self.first) else ""
        return (f"{counted(self.n, 'row', WERE)} set aside{why}: {'; '.join(map(str, self.first))}{more}",)


@dataclass(frozen=True)
class FactList:
    """Facts whose prompts name their subjects, in the file's order."""

    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    """What was set aside, a sentence each."""


def list_cases(source: Source, most: int | None = None, *, keep_same_answers: bool = False) -> CaseList:
    """The cases of a file in any format; rows that cannot be read, or ask for a true answer, are set aside.

    Args:
        most: stop after so many cases.
        keep_same_answers: as in `read_cases`.

    Raises:
        ValueError: if the file cannot be read or its format is not known.
    """
    unreadable, same = SetAside(), SetAside()

    def aside(row: Rejected) -> None:
        (same if row.same_answer else unreadable).add(row)

    cases: list[Case] = []
    for case in read_cases(source, on_rejected=aside, keep_same_answers=keep_same_answers):
        if len(cases) == most:
            break
        cases.append(case)
    return CaseList(tuple(cases), unreadable, same)


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
    listed = list_cases(source, most)
    facts = [fact for case in listed.cases for fact in case.facts]
    named = tuple(fact for fact in facts if fact.names_subject)
    notes = listed.notes
    if len(named) < len(facts):
        first = next(fact for fact in facts if not fact.names_subject)
        notes += (
            f"{counted(len(facts) - len(named), 'fact', WERE)} set aside, since the prompt does not hold a subject, "
            f"such as {first.prompt[:80]!r}",
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
