"""The folder under which everything that can be made or fetched again is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`ENGRAM_CACHE`, else ~/.cache/engram."""
    return Path(os.environ.get("ENGRAM_CACHE") or Path.home() / ".cache" / "engram")
