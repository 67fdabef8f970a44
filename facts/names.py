"""Errors for unknown names, with the nearest known name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, value: object, choices: Iterable[str]) -> str:
    """One sentence: the value, the nearest choice if one is near, and all of them."""
    listed = list(choices)
    near = get_close_matches(str(value).casefold(), [choice.casefold() for choice in listed], n=1)
    hint = next((f"did you mean {choice!r}? " for choice in listed if near and choice.casefold() == near[0]), "")
    return f"unknown {what} {value!r}; {hint}choose from {', '.join(listed)}"
