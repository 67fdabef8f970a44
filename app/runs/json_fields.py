"""A JSON object from anybody, its fields asked for by name, type and size: what is wrong with it is one phrase."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

LONGEST_TEXT = 4000
MOST_COLUMNS = 256
Rows = tuple[tuple[float, ...], ...]


class Record:
    """A JSON object whose fields are asked for by name and type."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{where} is no object with named fields")
        self.values: dict[str, Any] = values
        self.where = where

    def text(self, name: str, default: str | None = None) -> str:
        """A text of bounded length."""
        found = self.values.get(name, default)
        if not isinstance(found, str) or len(found) > LONGEST_TEXT:
            raise ValueError(f"{self.where}.{name} is {_shown(found)}; expected at most {LONGEST_TEXT} characters")
        return found

    def number(self, name: str) -> float:
        """A finite number."""
        found = self.optional(name)
        if found is None:
            raise ValueError(f"{self.where}.{name} is missing; expected a number")
        return found

    def optional(self, name: str) -> float | None:
        """A finite number, or null."""
        found = self.values.get(name)
        if found is None:
            return None
        if not _is_number(found):
            raise ValueError(f"{self.where}.{name} is {_shown(found)}; expected a finite number")
        return float(found)

    def word(self, name: str) -> str:
        """Any value in a few words."""
        return json.dumps(self.values[name], ensure_ascii=False)[:200].strip('"')

    def inner(self, name: str) -> Record:
        """An object in it."""
        return Record(self.values.get(name), f"{self.where}.{name}")

    def records(self, name: str, most: int) -> list[Record]:
        """A list of objects."""
        return [Record(one, f"{self.where}.{name}[{i}]") for i, one in enumerate(self.list(name, most, dict))]

    def list(self, name: str, most: int, kind: type) -> Sequence[Any]:
        """A list of bounded length, all of one type."""
        found = self.values.get(name)
        if not isinstance(found, list) or len(found) > most:
            raise ValueError(f"{self.where}.{name} is {_shown(found)}; expected a list of at most {most}")
        good = _is_number if kind in (int, float) else lambda one: isinstance(one, kind)
        bad = next((one for one in found if not good(one)), None)
        if bad is not None or (kind is int and any(one != int(one) for one in found)):
            raise ValueError(f"{self.where}.{name} holds {_shown(bad)}; expected {kind.__name__} values")
        return found

    def grid(self, name: str, rows: int, columns: int | None = None) -> Rows:
        """[token][layer] numbers; null becomes NaN."""
        found = self.list(name, rows, list)
        width = columns or (len(found[0]) if found else 0)
        if len(found) != rows or not 0 < width <= MOST_COLUMNS or any(len(row) != width for row in found):
            raise ValueError(f"{self.where}.{name} is not {rows} rows of one length, at most {MOST_COLUMNS}")
        if not all(value is None or _is_number(value) for row in found for value in row):
            raise ValueError(f"{self.where}.{name} holds something that is no finite number")
        return tuple(tuple(math.nan if value is None else float(value) for value in row) for row in found)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # an integer of thousands of digits is no float


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
