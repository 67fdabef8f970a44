"""Texts that a spreadsheet would run as formulas."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def defused(value: T) -> T | str:
    """A text that a spreadsheet would take for a formula, with an apostrophe in front; anything else as it is.

    Every CSV file is written through it, since prompts and facts may come from anybody.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGINNINGS) else value
