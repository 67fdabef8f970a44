"""Rows of a CSV or tab-separated table whose first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from facts.importers.errors import Raw, RowError
from facts.importers.files.split import MAX_ROW
from facts.importers.values import check_cells

MAX_LINES = 20
"""Lines one row may take, by quoted line ends."""

_DELIMITERS = ",\t;|"


class _Lines:
    """Lines with their ends, as the csv module wants them, remembering the ones the present row took."""

    def __init__(self, text: Iterator[str]) -> None:
        self._source = _lines(text)
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 0
        """Of the line handed out last."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) == MAX_LINES:
            raise csv.Error(f"a quotation mark opens a cell that goes on for more than {MAX_LINES} lines")
        line = self._again.pop() if self._again else next(self._source)
        self.number += 1
        self.taken.append(line)
        return line

    def text(self) -> str:
        """The lines the present row took."""
        return "".join(self.taken).rstrip("\r\n")

    def give_back(self) -> None:
        """Hands all but the first line of the present row out again, as a quotation mark may have swallowed them."""
        self._again.extend(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def _lines(text: Iterator[str]) -> Iterator[str]:
    kept = ""
    for added in text:
        *whole, kept = (kept + added).split("\n")
        yield from (line + "\n" for line in whole)
        if len(kept) > MAX_ROW:
            raise ValueError(f"a line of the table is longer than {MAX_ROW} characters; is the file a CSV file?")
    if kept:
        yield kept


def rows_of_table(text: Iterator[str], name: str) -> Iterator[Raw]:
    """Every row, its cells by column.

    Raises:
        ValueError: if the first line cannot be the names of columns.
    """
    lines = _Lines(text)
    header = next(lines)
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error:  # a carriage return in the line, or a cell without end
        columns = []
    if len(columns) < 2 or not all(columns) or len(set(columns)) < len(columns):
        raise ValueError(
            f"{name} is neither JSON nor a table: its first line is {header.strip()[:80]!r}; "
            "expected a JSON list, JSON Lines, or a line of different column names such as subject,prompt,target_new"
        )
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken = []
        line = lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            lines.give_back()
            yield Raw(line, lines.text(), error=RowError("", f"is not CSV: {error}"))
            continue
        if cells is None:
            return
        if cells:
            yield _by_column(columns, cells, line, lines.text())


def _by_column(columns: list[str], cells: list[str], line: int, text: str) -> Raw:
    try:
        if len(cells) != len(columns):
            raise RowError("", f"has {len(cells)} cells; the header names {len(columns)} columns")
        return Raw(line, text, check_cells(dict(zip(columns, cells, strict=True))))
    except RowError as error:
        return Raw(line, text, error=error)
