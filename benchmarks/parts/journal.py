"""A file of lines to which a benchmark adds each result as it comes, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def journaled(
    path: Path, about: Mapping[str, Any], keys: Sequence[str], measure: Callable[[int], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """`measure(index)` for each key, in order; those that the file has are read from it.

    Args:
        about: what all results depend on; the file's first line.

    Raises:
        ValueError: if the file holds results of something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_text(json.dumps(dict(about)) + "\n", encoding="utf-8")
    head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if head != json.loads(json.dumps(dict(about))) or [line["key"] for line in lines] != list(keys[: len(lines)]):
        raise ValueError(f"{str(path)!r} holds results of another model, of other settings or facts; remove it")
    for index in range(len(lines), len(keys)):
        lines.append({"key": keys[index], **measure(index)})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    return lines[: len(keys)]
