"""Files that readers upload: few and small, kept by the hash of their bytes in a folder deleted with the server."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

LARGEST = 2 * 1024 * 1024
"""Bytes; also in streamlit_config.toml, which stops larger ones on their way."""
KEPT = 64
"""More than can wait in the queue, so that no job finds its file gone."""


class Uploads:
    """The files of all sessions.  A name does not tell where the file is or who sent it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="engram-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # also when the server ends
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept

    def keep(self, data: bytes, suffix: str, largest: int = LARGEST) -> str:
        """Store the bytes; the name they are kept under.

        Args:
            largest: bytes that are taken at most.

        Raises:
            ValueError: if there are none, or too many.
        """
        if not data:
            raise ValueError("the file is empty; choose another")
        if len(data) > largest:
            raise ValueError(f"the file has {len(data) / 2**20:.1f} MB; at most {largest / 2**20:.0f} are taken")
        name = hashlib.sha256(data).hexdigest()[:24] + suffix
        with self._lock:
            if name not in self._paths:
                path = self._folder / name
                path.write_bytes(data)
                self._paths[name] = path
            self._paths.move_to_end(name)
            while len(self._paths) > self._kept:
                self._paths.popitem(last=False)[1].unlink()
        return name

    def keep_text(self, data: bytes) -> str:
        """`keep` for a text: UTF-8 with one document per line.

        Raises:
            ValueError: as `keep`; also if it is not UTF-8, or holds no words.
        """
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the file is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        if "\0" in text or not text.strip():
            raise ValueError("the file holds no text; write one document per line")
        return self.keep("\n".join(text.splitlines()).encode(), ".txt")

    def holds(self, path: str) -> bool:
        """Whether a path is that of an uploaded file."""
        with self._lock:
            return path in map(str, self._paths.values())

    def path(self, name: str) -> Path:
        """Where the file is.

        Raises:
            ValueError: if it is not kept any more.
        """
        with self._lock:
            if name not in self._paths:
                raise ValueError("the file is no longer kept; choose it again")
            self._paths.move_to_end(name)
            return self._paths[name]
