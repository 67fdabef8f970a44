"""Whether readers may name files of the server; the page then tells nothing of a file but that it is a dataset.

Anybody who reaches the page could otherwise read the server's files through it, also through a proxy or a foreign page
(DNS rebinding).
"""

from __future__ import annotations

import os

FLAG, VARIABLE = "--server-paths", "ENGRAM_SERVER_PATHS"


def allowed() -> bool:
    """Whether the server was started with `--server-paths`."""
    return os.environ.get(VARIABLE) == "1"
