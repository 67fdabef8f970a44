"""Read a file or stream as pieces of text, once, without decompressing; refuse what is not text."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from facts.regular import check_regular

PIECE = 1 << 18
"""Bytes read at a time."""

Source = str | os.PathLike[str] | IO[bytes] | IO[str]

_NOT_TEXT = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    (b"PAR1", "is a Parquet file; save it as JSON, JSONL or CSV first"),
    (b"\x80", "is a pickle or another binary file; save it as JSON, JSONL or CSV first"),
    (b"\xff\xfe", "is UTF-16 text; save it as UTF-8 first"),
    (b"\xfe\xff", "is UTF-16 text; save it as UTF-8 first"),
    (b"version https://git-lfs", "is a git-lfs pointer, not the file; run: git lfs pull"),
    (b"<", "is a web page or XML, not a data set; download the file itself"),
)


def name_of(source: Source) -> str:
    """How messages call a source: its file name, or "the upload"."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(named).name if isinstance(named, str | os.PathLike) else "the upload"


@contextmanager
def pieces_of(source: Source) -> Iterator[Iterator[str]]:
    """The text of a source, a quarter of a megabyte at a time.  A stream is left open, where reading ended.

    Bytes that are not UTF-8 become lone surrogates, which the row that holds them is refused for.

    Raises:
        ValueError: if there is no such file, or it is no ordinary file, empty or no text.
    """
    if not isinstance(source, str | os.PathLike):
        yield _pieces(source, name_of(source))
        return
    with _open(source) as file:
        yield _pieces(file, name_of(source))


def _open(source: str | os.PathLike[str]) -> IO[bytes]:
    instead = "give the path of a JSON, JSONL or CSV file"
    check_regular(source, instead)
    try:
        return Path(source).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{str(source)!r} cannot be read ({reason}); {instead}") from None


def _pieces(stream: IO[Any], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    first = True
    while True:
        block = stream.read(PIECE)
        if first:
            _refuse_what_is_no_text(block if isinstance(block, bytes) else block[:64].encode(errors="replace"), name)
        text = decoder.decode(block, final=not block) if isinstance(block, bytes) else block
        yield text.removeprefix("\ufeff") if first else text
        first = False
        if not block:
            return


def _refuse_what_is_no_text(head: bytes, name: str) -> None:
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise ValueError(f"{name} is empty or begins with a blank page; expected JSON, JSONL or CSV with a header")
    for magic, reason in _NOT_TEXT:
        if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(magic):
            raise ValueError(f"{name} {reason}")
    if b"\0" in head[:4096]:
        raise ValueError(f"{name} is a binary file; save it as JSON, JSONL or CSV first")
