"""The folder under which everything that can be made or fetched again is kept, and the cap on what was computed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPUTED = ("moments", "spectra", "answers")
"""Folders of what was computed; the least recently used files go first once they are over the cap together."""
CAP_GB = 5.0
"""Default cap of these folders, GB."""
IN_USE_SECONDS = 600
"""A file that was read or written so recently may be in use and stays, whatever the cap."""


def cache_folder() -> Path:
    """`ENGRAM_CACHE`, else ~/.cache/engram."""
    return Path(os.environ.get("ENGRAM_CACHE") or Path.home() / ".cache" / "engram")


def cap_bytes() -> int:
    """`ENGRAM_CACHE_GB`, else `CAP_GB`, in bytes.

    Raises:
        ValueError: if the variable is not a number of at least 0.
    """
    given = os.environ.get("ENGRAM_CACHE_GB") or str(CAP_GB)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise ValueError(f"ENGRAM_CACHE_GB is {given!r}; expected a number of gigabytes, 0 or more, such as {CAP_GB:g}")
    return int(gigabytes * 1e9)


@dataclass(frozen=True)
class Kept:
    """A file of the cache."""

    path: Path
    bytes: int
    used: float
    """When it was last read or written, seconds since the epoch."""


def kept_files(name: str, folder: Path | None = None) -> Iterator[Kept]:
    """The files in one folder of the cache; files that vanish meanwhile are left out."""
    for path in ((folder or cache_folder()) / name).rglob("*"):
        try:
            if path.is_file():
                status = path.stat()
                yield Kept(path, status.st_size, status.st_mtime)
        except OSError:
            continue


def mark_used(path: Path) -> None:
    """Note that a file is used now, so that others go first."""
    try:
        os.utime(path)
    except OSError:
        return  # it went, or the cache is read-only


def trim(folder: Path | None = None) -> int:
    """Delete the computed files that were used longest ago until the rest is within the cap.

    Returns:
        Bytes freed.
    """
    files = sorted((kept for name in COMPUTED for kept in kept_files(name, folder)), key=lambda kept: kept.used)
    total, cap, now = sum(kept.bytes for kept in files), cap_bytes(), time.time()
    freed = 0
    for kept in files:
        if total - freed <= cap or now - kept.used < IN_USE_SECONDS:
            break
        freed += _delete(kept)
    return freed


def clear(folder: Path | None = None) -> int:
    """Delete everything that was computed; return the bytes freed.  A running edit has read its file and goes on."""
    return sum(_delete(kept) for name in COMPUTED for kept in list(kept_files(name, folder)))


def _delete(kept: Kept) -> int:
    try:
        kept.path.unlink()
    except OSError:
        return 0
    return kept.bytes
