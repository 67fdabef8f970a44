"""Which jobs were sent to a host: a file by which a trace that was ended goes on with the jobs that run there.

A job is found by a digest of its question: the model, every tensor that is sent, and the functions that act on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch


class JobRecord:
    """A file with a line of JSON for each job.

    Args:
        path: of the file, which need not be there yet.

    Raises:
        ValueError: if it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            self._jobs: dict[str, str] = dict(map(json.loads, text.splitlines()))
        except (ValueError, TypeError):
            raise ValueError(f"{path.name!r} is not a record of remote jobs; name another file or delete it") from None

    def find(self, question: str) -> str | None:
        """The id of the job that was sent with this question; None if there is none."""
        return self._jobs.get(question) or None

    def note(self, question: str, job_id: str) -> None:
        """Remember the job of a question; an empty id forgets it."""
        self._jobs[question] = job_id
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([question, job_id]) + "\n")


def digest_of(*parts: Any) -> str:
    """sha256 of tensors, plain values, dataclasses and functions with what they refer to; the same in every process.

    Raises:
        TypeError: for a value of another kind.
    """
    digest = hashlib.sha256()
    for piece in _pieces(parts):
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {list(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return
    if value is None or isinstance(value, str | bytes | int | float | range):
        yield repr(value).encode()
        return
    inner: tuple[Any, ...]
    if isinstance(value, MethodType):
        inner = (value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        inner = (value.__qualname__, *(cell.cell_contents for cell in value.__closure__ or ()))
    elif is_dataclass(value):
        inner = tuple(getattr(value, each.name) for each in fields(value))
    elif isinstance(value, Mapping):
        inner = tuple(value.items())
    elif isinstance(value, list | tuple):
        inner = tuple(value)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")
    yield f"{type(value).__name__} {len(inner)}".encode()
    for each in inner:
        yield from _pieces(each)
