"""Cut text into rows while it is read: members of a JSON list, consecutive JSON objects, or lines.

The cutter only follows strings and brackets, so that a row that is no valid JSON is set aside and the next one still
found; `facts.importers.values` then reads each row.  At most one row is held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ROW = 8_000_000
"""Characters of one row; RippleEdits' longest rows have some hundred thousand."""
SHOWN = 2000
"""Characters kept of a row that is longer than `MAX_ROW`."""

_STRING = r'"(?:[^"\\\n]++|\\[^\n])*+(?:"|(?=\\?\n))'  # a raw line end is not JSON: there an unclosed string ends
_WITHIN = re.compile(rf'(?:[^"{{}}\[\]]++|{_STRING})*+')
_BETWEEN = re.compile(rf'(?:[^"{{}}\[\],]++|{_STRING})*+')
_FIRST_FIELD = re.compile(r'\s*\{\s*("(?:[^"\\]|\\.)*+")\s*:')
_ENDING = " \t\r\n,]"
"""What may follow a row that is cut out of a longer piece."""


@dataclass(frozen=True)
class Piece:
    """One row's text.  With a `reason`, it is no row: cut off, or too long to be held."""

    text: str
    line: int
    reason: str = ""


class Cutter:
    """Cuts rows out of text that is read as it goes."""

    def __init__(self, text: Iterator[str], in_list: bool) -> None:
        """The rows are members of one list, or objects that follow one another."""
        self._source = text
        self._in_list = in_list
        self._text = ""
        self._start = 0
        """Where the row begins."""
        self._at = 0
        """Scanned up to here."""
        self._depth = 0
        self._line = 1
        """Of `_start`."""
        self._list_closed = not in_list
        self._head: Piece | None = None
        """The beginning of a row too long to be held, once the rest was let go."""
        self._let_go = 0
        self._opening = None if in_list else re.compile(r"\n\{")
        """How rows begin: the way back after a bracket went missing."""

    def __iter__(self) -> Iterator[Piece]:
        if self._in_list:
            while "[" not in self._text and self._more():
                pass
            self._at = self._text.index("[") + 1
            self._skip_to(self._at)
        while True:
            match = (_WITHIN if self._depth else _BETWEEN).match(self._text, self._at)
            assert match is not None  # the pattern may be empty
            self._at = match.end()
            mark = self._text[self._at : self._at + 1]
            if mark and mark != '"':
                yield from self._step(mark)
                continue
            if len(self._text) - self._start > MAX_ROW:
                yield from self._shorten()
            if not self._more():  # else a string, or the row, goes on in what comes next
                break
        # In a row with a bracket missing, the list's own may have been taken for it.
        closed = self._list_closed or self._text.rstrip().endswith("]")
        yield from self._take(len(self._text))
        if not closed and not self._depth:
            yield Piece("", self._line, "is missing: the file ends before its list is closed")

    def _step(self, mark: str) -> Iterator[Piece]:
        self._at += 1
        if mark in "{[":
            if not self._depth and self._opening is None:
                self._opening = _first_of_line(self._text[: self._at - 1])
            self._depth += 1
        elif self._depth:  # a closing bracket; commas are met only between rows
            self._depth -= 1
            if not self._depth and not self._in_list:
                yield from self._take(self._at)
        elif mark == ",":
            if self._in_list and not self._text[self._start : self._at - 1].strip() and self._head is None:
                yield Piece("", self._line, "is empty: there is nothing before the comma")
            yield from self._take(self._at - 1)
            self._skip_to(self._at)
        elif mark == "]" and self._in_list:
            self._list_closed = True
            yield from self._take(self._at - 1)
            self._skip_to(self._at)

    def _take(self, end: int) -> Iterator[Piece]:
        """The row up to `end`."""
        text = self._text[self._start : end]
        if self._head is not None:
            n = self._let_go + len(text)
            yield Piece(self._head.text, self._head.line, f"has {n} characters; at most {MAX_ROW} are taken")
            self._head, self._let_go = None, 0
        elif text.strip():
            if self._opening is None:
                self._opening = _first_field(text)
            yield Piece(text.strip(), self._line + _lines_before(text))
        self._skip_to(end)

    def _shorten(self) -> Iterator[Piece]:
        """Makes room: ends the row where another one visibly begins, or keeps only its beginning."""
        own = max(self._text.find("{", self._start), self._start) + 1
        rows = self._opening.finditer(self._text, own, self._at) if self._opening else ()
        last = max((match.start() for match in rows), default=None)
        if last is not None and self._head is None:
            self._depth = 0
            yield from self._take(last)
            self._at = self._start
            return
        if self._head is None:
            self._head = Piece(self._text[self._start : self._start + SHOWN].strip(), self._line)
        if len(self._text) - self._at > MAX_ROW:  # one endless string: all but what tells where it ends
            backslashes = len(self._text) - len(self._text.rstrip("\\"))
            kept = len(self._text) - backslashes
            self._let_go += kept - self._start - 1
            self._text = f'"{self._text[kept:]}'
            self._start = self._at = 0
            return
        self._let_go += self._at - self._start
        self._skip_to(self._at)

    def rows_within(self, piece: Piece) -> Iterator[Piece]:
        """The rows that visibly begin in a piece that cannot be read as one row; the piece itself if none does."""
        starts = [match.start() for match in self._opening.finditer(piece.text, 1)] if self._opening else []
        line = piece.line
        for start, end in zip([0, *starts], [*starts, len(piece.text)], strict=True):
            text = piece.text[start:end]
            yield Piece(text.strip(_ENDING), line + _lines_before(text)) if starts else piece
            line += text.count("\n")

    def _more(self) -> bool:
        added = next(self._source, "")
        self._text = self._text[self._start :] + added
        self._at -= self._start
        self._start = 0
        return bool(added)

    def _skip_to(self, end: int) -> None:
        self._line += self._text.count("\n", self._start, end)
        self._start = end


def _first_of_line(before: str) -> re.Pattern[str] | None:
    """How rows begin where the first one begins a line."""
    _, line_end, indent = before.rpartition("\n")
    return re.compile(rf"\n{indent}\{{") if line_end and not indent.strip() else None


def _first_field(row: str) -> re.Pattern[str] | None:
    """How rows begin where they begin with a field that nothing inside them begins with."""
    first = _FIRST_FIELD.match(row)
    opening = re.compile(rf"\{{\s*{re.escape(first[1])}\s*:") if first else None
    return opening if opening is not None and len(opening.findall(row)) == 1 else None


def _lines_before(text: str) -> int:
    """Line ends before the first character that is not blank."""
    return text.count("\n", 0, len(text) - len(text.lstrip()))


def is_open(line: str) -> bool:
    """Whether a line opens more brackets than it closes."""
    depth, at = 0, 0
    while at < len(line):
        match = _WITHIN.match(line, at)
        assert match is not None  # the pattern may be empty
        at = match.end() + 1
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(line[at - 1 : at], 0)
    return depth > 0


def lines_of(text: Iterator[str]) -> Iterator[Piece]:
    """Every line that is not blank."""
    number, kept = 0, ""
    let_go = 0
    for added in text:
        *whole, kept = (kept + added).split("\n")
        for line in whole:
            number += 1
            yield from _line(line, number, let_go)
            let_go = 0
        if len(kept) > MAX_ROW + SHOWN:
            let_go += len(kept) - SHOWN
            kept = kept[:SHOWN]
    yield from _line(kept, number + 1, let_go)


def _line(text: str, number: int, let_go: int) -> Iterator[Piece]:
    if len(text) + let_go > MAX_ROW:
        reason = f"has {len(text) + let_go} characters; at most {MAX_ROW} are taken"
        yield Piece(text[:SHOWN], number, reason)
    elif text.strip():
        yield Piece(text.strip(), number)
