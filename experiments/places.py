"""Shorten full paths to names in everything exported from a ledger, so that no folder of this machine is shown.

The ledger itself keeps full paths, since resuming needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

PLACES = frozenset({"model", "model_name", "source", "corpus", "artefact", "snippets"})
"""Settings and fields that may hold a path; other texts, such as prompts, are never shortened."""


def shown_name(name: str) -> str:
    """A model's or file's name as given; the last part of a full path."""
    path = PurePath(name)
    return path.name if path.is_absolute() else name


def portable(value: Any, name: str = "") -> Any:
    """JSON values without full paths.

    Args:
        name: of the field that holds it; dotted names count by their last part.
    """
    if isinstance(value, Mapping):
        return {inner: portable(item, inner) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, name) for item in value]
    if isinstance(value, str) and name.rpartition(".")[2] in PLACES:
        return shown_name(value)
    return value


def paths_in(value: Any, name: str = "") -> set[str]:
    """The full paths that `portable` would shorten."""
    if isinstance(value, Mapping):
        return {path for inner, item in value.items() for path in paths_in(item, inner)}
    if isinstance(value, list | tuple):
        return {path for item in value for path in paths_in(item, name)}
    return {value} if isinstance(value, str) and portable(value, name) != value else set()


def without(text: str, paths: set[str]) -> str:
    """A text with these paths shortened."""
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, shown_name(path))
    return text
