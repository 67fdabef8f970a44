"""One row's text as a JSON object that is safe to read, or a `RowError` that names the field."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from facts.importers.errors import RowError

MAX_DEPTH = 32
"""Levels of nesting; the deepest format (RippleEdits) has 8."""
MAX_DIGITS = 18
"""Of a whole number: 64 bits."""

_KEY = re.compile(r'"([^"\\]*)"\s*:')
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAY_HOLD_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class _Unusable:
    """Stands for a value that is refused, until its path is known."""

    reason: str


def _integer(digits: str) -> int | _Unusable:
    if len(digits) > MAX_DIGITS:
        return _Unusable(f"is a whole number of {len(digits)} digits; at most {MAX_DIGITS} are taken")
    return int(digits)


def _constant(word: str) -> _Unusable:
    return _Unusable(f"is {word}, which is not JSON; write null or a number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        members[twice] = _Unusable("occurs twice in one object; keep one of the two")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_constant=_constant)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object a text holds.

    Raises:
        RowError: if it is not an object, or a value is not finite, huge, nested too deep or broken.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        keys = _KEY.findall(text, 0, error.pos)
        field = keys[-1] if keys else ""
        what = error.msg.partition(" starting")[0]
        raise RowError(field, f"is not JSON: {what} at character {error.pos + 1} of the row") from None
    except RecursionError:
        raise RowError("", f"is nested deeper than {MAX_DEPTH} levels") from None
    if isinstance(value, _Unusable):
        raise RowError("", value.reason)
    if not isinstance(value, dict):
        raise RowError("", f"is {kind_of(value)}; expected an object with named fields")
    # Our own form holds what is left of a row inside another object.
    limit = MAX_DEPTH + ("engram" in value)
    _check(value, "", limit, bool(_MAY_HOLD_SURROGATE.search(text)))
    return value


def check_cells(cells: dict[str, str]) -> dict[str, Any]:
    """The cells of a table's row, refused like a JSON object's values."""
    _check(cells, "", MAX_DEPTH, surrogates=True)
    return dict(cells)


def _check(value: Any, path: str, levels: int, surrogates: bool) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise RowError(path, "has a zero character (U+0000); type it again without it")
        if surrogates and _SURROGATE.search(value):
            raise RowError(path, "has a broken character (not UTF-8, or a lone surrogate); type it again")
    elif isinstance(value, _Unusable):
        raise RowError(path, value.reason)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RowError(path, "is too large a number; write one below 1e308")
    elif isinstance(value, dict | list):
        if not levels:
            raise RowError(path, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for name, entry in value.items():
                if surrogates and _SURROGATE.search(name):
                    raise RowError(path, "has a field whose name has a broken character; type it again")
                _check(entry, f"{path}.{name}" if path else name, levels - 1, surrogates)
        else:
            for index, entry in enumerate(value):
                _check(entry, f"{path}[{index}]", levels - 1, surrogates)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]
