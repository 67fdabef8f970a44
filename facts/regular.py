"""Check a path: an ordinary file to read (a pipe waits forever, a device has no end), or a place to write to."""

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


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise if no file can be written there; for commands that compute before they write.

    Raises:
        FileNotFoundError: if the folder does not exist.
        IsADirectoryError: if the path is a folder itself.
        PermissionError: if the file, or its folder, may not be written to.
    """
    place = Path(path)
    if not place.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(place.parent)!r} to write {str(path)!r} into; make it first")
    if place.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the path of a file to write")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise PermissionError(f"{str(path)!r} may not be written; choose a path where you may write")
