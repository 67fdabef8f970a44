"""Write cases as JSON Lines and rejected rows as a file to correct; import a whole file with a summary."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from facts.importers.errors import Rejected
from facts.importers.files.text import Source
from facts.importers.formats.engram import record_of
from facts.importers.read import reading
from facts.types import Case

LISTED = 100
"""Rows set aside that a summary lists; the file holds all of them."""


@dataclass
class Summary:
    """Summary of an import."""

    format: str
    title: str
    cases: int = 0
    requests: int = 0
    known: int = 0
    """Facts to trace, with no new answer."""
    probes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    noted: int = 0
    """Cases for which something had to be assumed; their `notes` say what."""
    rejected: int = 0
    same_answers: int = 0
    """Of those, rows whose new answer is one of the true ones."""
    listed: list[Rejected] = field(default_factory=list)
    """The first `LISTED` rows set aside."""

    def count(self, outcome: Case | Rejected) -> None:
        """Adds one row."""
        if isinstance(outcome, Rejected):
            self.rejected += 1
            self.same_answers += outcome.same_answer
            if len(self.listed) < LISTED:
                self.listed.append(outcome)
            return
        self.cases += 1
        self.requests += len(outcome.requests)
        self.known += len(outcome.known)
        self.probes.update(probe.kind for probe in outcome.all_probes)
        self.noted += bool(outcome.notes)


def import_file(
    source: Source,
    out: str | os.PathLike[str] | None = None,
    rejected: str | os.PathLike[str] | None = None,
    format: str | None = None,
    *,
    keep_same_answers: bool = False,
) -> Summary:
    """Reads a whole file once: cases to `out`, rows that are set aside to `rejected`, each if named.

    `rejected` is only written if there are such rows; without any, one of an earlier import is taken away.

    Raises:
        ValueError: if the file cannot be read at all, its format is not known, or a file cannot be written.
    """
    with reading(source, format, keep_same_answers) as file, ExitStack() as files:
        summary = Summary(file.format.name, file.format.title)
        written = files.enter_context(_replacing(Path(out))) if out is not None else None
        aside = files.enter_context(RejectedFile(rejected)) if rejected is not None else None
        for outcome in file.outcomes:
            summary.count(outcome)
            if isinstance(outcome, Case):
                if written is not None:
                    _write(written, record_of(outcome))
            elif aside is not None:
                aside(outcome)
    if rejected is not None and not summary.rejected:
        _take_away(Path(rejected))
    return summary


def _take_away(stale: Path) -> None:
    """Remove a file of rows set aside; any other file stays."""
    if not stale.is_file():
        return
    try:
        with open(stale, encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return
    if isinstance(first, dict) and {"row", "line", "field", "reason", "raw"} <= first.keys():
        stale.unlink()


def write_cases(cases: Iterable[Case], path: str | os.PathLike[str]) -> int:
    """Writes cases as JSON Lines, whole or not at all, and returns their number.

    Raises:
        ValueError: if the file cannot be written.
    """
    n = 0
    with _replacing(Path(path)) as file:
        for case in cases:
            _write(file, record_of(case))
            n += 1
    return n


class RejectedFile:
    """Takes rows set aside into a file of JSON Lines; give it to `read_cases` as `on_rejected`.

    Without such a row, no file is made.  Each line has row, line, field, reason and the row's raw text.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.n = 0
        self._files = ExitStack()
        self._file: IO[str] | None = None

    def __call__(self, rejected: Rejected) -> None:
        """Adds a row."""
        if self._file is None:
            self._file = self._files.enter_context(_replacing(self.path))
        self.n += 1
        _write(self._file, asdict(rejected), ascii_only=True)  # a raw text may hold what UTF-8 cannot

    def __enter__(self) -> RejectedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A file that replaces the old one once it is complete; after a failure the old one remains."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be written ({error.strerror}); name another place") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _write(file: IO[str], record: dict[str, object], ascii_only: bool = False) -> None:
    file.write(json.dumps(record, ensure_ascii=ascii_only, allow_nan=False) + "\n")
