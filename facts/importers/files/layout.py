"""How a file lays out its rows: a JSON list, JSON Lines, objects one after the other, or a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from facts.importers.errors import Raw, RowError
from facts.importers.files.split import MAX_ROW, Cutter, Piece, is_open, lines_of
from facts.importers.files.tables import rows_of_table
from facts.importers.values import parse_object


def raw_rows(text: Iterator[str], name: str) -> Iterator[Raw]:
    """Every row of a text that is read as it goes.

    Raises:
        ValueError: if the text is neither JSON nor a table.
    """
    start = ""
    while not start.strip() and (added := next(text, "")):
        start += added
    first = start.lstrip()[:1]
    if first == "{":
        while "\n" not in start.strip() and len(start) <= MAX_ROW and (added := next(text, "")):
            start += added
    whole = itertools.chain([start], text)
    if first == "[":
        return _cut(Cutter(whole, in_list=True))
    if first != "{":
        return rows_of_table(whole, name)
    if is_open(start.lstrip().partition("\n")[0]):
        return _cut(Cutter(whole, in_list=False))
    return map(_read, lines_of(whole))


def _cut(cutter: Cutter) -> Iterator[Raw]:
    for piece in cutter:
        raw = _read(piece)
        if raw.error is None or piece.reason:
            yield raw
        else:
            yield from map(_read, cutter.rows_within(piece))


def _read(piece: Piece) -> Raw:
    if piece.reason:
        return Raw(piece.line, piece.text, error=RowError("", piece.reason))
    try:
        return Raw(piece.line, piece.text, parse_object(piece.text))
    except RowError as error:
        return Raw(piece.line, piece.text, error=error)
