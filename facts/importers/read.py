"""Reading a file: its format told from the content, and its rows one after the other as cases."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from facts.importers.errors import BadRowError, OnRejected, Raw, Rejected, RowError, SameAnswerError, shown
from facts.importers.fields import Fields
from facts.importers.files.layout import raw_rows
from facts.importers.files.text import Source, name_of, pieces_of
from facts.importers.registry import FORMATS, Format, get_format
from facts.importers.snippets import recognises as recognises_snippets
from facts.importers.values import kind_of
from facts.types import Case

LOOKED_AT = 50
"""Rows the format is told from: it is the one most of them have."""
MAX_REJECTED = 100_000
"""Rows set aside before a file is given up: each takes a line of a file, which may be longer than the row."""


@dataclass(frozen=True)
class Reading:
    """A file being read.  The outcomes can be taken once."""

    format: Format
    outcomes: Iterator[Case | Rejected]


@dataclass(frozen=True)
class Preview:
    """The beginning of a file."""

    format: Format
    cases: tuple[Case, ...]
    rejected: tuple[Rejected, ...]


def read_cases(
    source: Source,
    format: str | None = None,
    on_rejected: OnRejected | None = None,
    *,
    keep_same_answers: bool = False,
) -> Iterator[Case]:
    """The cases of a file or stream, one at a time.

    Args:
        source: a path, or a stream of bytes or text, which is read once from where it stands.
        format: a name in `FORMATS`; told from the content if None.
        on_rejected: called with every row that is set aside.  If None, the first such row raises.
        keep_same_answers: read rows whose new answer is one of the true ones too, as the published counts have them.

    Raises:
        ValueError: while iterating: the source is no JSON, JSONL or CSV file, its format is not known, or
            (`BadRowError`) a row is set aside and `on_rejected` is None.
    """
    with reading(source, format, keep_same_answers) as file:
        for outcome in file.outcomes:
            if isinstance(outcome, Case):
                yield outcome
            elif on_rejected is None:
                raise BadRowError(outcome)
            else:
                on_rejected(outcome)


def detect(source: Source) -> Format:
    """The format of a file, told from its first rows.  A stream is put back to where it stood.

    Raises:
        ValueError: if it is no JSON, JSONL or CSV file, or its format is not known.
    """
    return preview(source, 0).format


def preview(source: Source, n: int = 5, format: str | None = None, *, keep_same_answers: bool = False) -> Preview:
    """The first `n` rows, parsed or rejected with the reason.  A stream's position is restored.

    Raises:
        ValueError: as `detect`.
    """
    stands = source.tell() if hasattr(source, "tell") else None
    with reading(source, format, keep_same_answers) as file:
        outcomes = list(itertools.islice(file.outcomes, n))
    if hasattr(source, "seek") and stands is not None:
        source.seek(stands)
    cases = tuple(outcome for outcome in outcomes if isinstance(outcome, Case))
    return Preview(file.format, cases, tuple(outcome for outcome in outcomes if isinstance(outcome, Rejected)))


@contextmanager
def reading(source: Source, format: str | None = None, keep_same_answers: bool = False) -> Iterator[Reading]:
    """Opens a source and tells its format.

    Raises:
        ValueError: as `detect`.
    """
    with pieces_of(source) as text:
        rows = raw_rows(text, name_of(source))
        first = list(itertools.islice(rows, LOOKED_AT))
        chosen = get_format(format) if format is not None else _format_of(first, name_of(source))
        yield Reading(chosen, _outcomes(itertools.chain(first, rows), chosen, keep_same_answers))


def _format_of(rows: list[Raw], name: str) -> Format:
    values = [row.value for row in rows if row.value is not None]
    if not values:
        reason = f"; the first row {rows[0].error}" if rows else ""
        raise ValueError(f"{name} holds no row that can be read{reason}; name its format or mend it")
    if recognises_snippets(values[0]):
        raise ValueError(f"{name} holds reference texts, not facts; read it with facts.importers.read_snippets")
    votes = Counter(next((entry.name for entry in FORMATS.values() if entry.recognises(value)), "") for value in values)
    best, _ = max(votes.items(), key=lambda vote: (bool(vote[0]), vote[1]))
    if not best:
        fields = ", ".join(shown(field) for field in list(values[0])[:12])
        raise ValueError(
            f"{name} has rows of no known format (fields: {fields}); the formats are {', '.join(FORMATS)}; or give a "
            "table with the columns subject, prompt and target_true"
        )
    return FORMATS[best]


def _outcomes(rows: Iterator[Raw], format: Format, keep_same: bool) -> Iterator[Case | Rejected]:
    rejected = 0
    for outcome in _every_outcome(rows, format, keep_same):
        rejected += isinstance(outcome, Rejected)
        if rejected > MAX_REJECTED:
            raise ValueError(f"more than {MAX_REJECTED} rows cannot be read as {format.name!r}; name another format")
        yield outcome


def _every_outcome(rows: Iterator[Raw], format: Format, keep_same: bool) -> Iterator[Case | Rejected]:
    number = itertools.count(1)
    for raw in rows:
        if raw.value is None:
            yield _rejected(next(number), raw, raw.error or RowError("", "cannot be read"))
            continue
        try:
            for value in format.expand(raw.value):
                part = raw if value is raw.value else replace(raw, text=json.dumps(value, ensure_ascii=False))
                yield _read(next(number), part, value, format, keep_same)
        except RowError as error:
            yield _rejected(next(number), raw, error)


def _read(number: int, raw: Raw, value: Any, format: Format, keep_same: bool) -> Case | Rejected:
    try:
        if not isinstance(value, dict):
            raise RowError("", f"is {kind_of(value)}; expected an object with named fields")
        fields = Fields(value, exact=format.exact, keeps_same=keep_same)
        case = format.read(fields)
        if not keep_same:
            _check_answers(case)
    except ValueError as error:
        return _rejected(number, raw, error)
    return replace(
        case,
        id=case.id or str(number),
        source=case.source if format.exact else format.name,
        extra={**case.extra, **fields.left()},
    )


def _check_answers(case: Case) -> None:
    """Refuse a case with a new answer that is another name of the true one: a model that does nothing would pass.

    Raises:
        SameAnswerError: if so.
    """
    groups = [{_folded(name) for name in (answer, *names)} for answer, names in case.names]
    for request in case.requests:
        true, new = _folded(request.fact.target_true), _folded(request.target_new)
        if true and (new == true or any({true, new} <= group for group in groups)):
            reason = (
                f"the new answer {request.target_new!r} is another name of the true one, {request.fact.target_true!r}"
            )
            raise SameAnswerError("", reason)


def _folded(answer: str) -> str:
    return answer.strip().casefold()


def _rejected(number: int, raw: Raw, error: ValueError) -> Rejected:
    field, reason = (error.field, error.reason) if isinstance(error, RowError) else ("", f"cannot be used: {error}")
    return Rejected(number, raw.line, field, reason, raw.text, isinstance(error, SameAnswerError))
