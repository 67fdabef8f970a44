"""Check that a path is an ordinary file: opening a pipe waits forever, and a device has no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: str | os.PathLike[str], instead: str) -> None:
    """Raise if the path exists and is not an ordinary file (links are followed).  A missing path passes: the caller has
    its own error for it.

    Args:
        instead: what to do, as the end of the sentence: "give the path of a saved edit".

    Raises:
        ValueError: if it is a folder, a pipe, a device or a socket.
    """
    try:
        kind = stat.S_IFMT(Path(path).stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "something else")
        raise ValueError(f"{str(path)!r} cannot be read (it is {what}, not an ordinary file); {instead}")
