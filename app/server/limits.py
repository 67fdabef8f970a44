"""What the one who starts the server allows: an open laptop, or a public page where visitors are not trusted."""

from __future__ import annotations

import os

PUBLIC, DEADLINE, SESSIONS, SESSIONS_EACH = (
    "ENGRAM_PUBLIC",
    "ENGRAM_DEADLINE",
    "ENGRAM_SESSIONS",
    "ENGRAM_SESSIONS_EACH",
)
"""Variables: the page is public; seconds of a long job; sessions at a time, of all and of one address."""
PATHS_FLAG, PATHS = "--server-paths", "ENGRAM_SERVER_PATHS"
"""Flag and variable: readers may name files of the server.  Otherwise nobody may: through the page anybody who reaches
it could read them, also by way of a proxy or a foreign page (DNS rebinding)."""
PUBLIC_BATCHES, BATCHES = 2, 4
PUBLIC_EDITS, EDITS = 5, 20


def public() -> bool:
    """Whether the server was started with `--public`."""
    return os.environ.get(PUBLIC) == "1"


def server_paths() -> bool:
    """Whether readers may name files of the server; the page tells nothing of one but that it is a dataset."""
    return os.environ.get(PATHS) == "1"


def login() -> bool:
    """Whether readers have to log in first (`ENGRAM_LOGIN=1`, with Streamlit's OpenID Connect)."""
    return os.environ.get("ENGRAM_LOGIN") == "1"


def longest_job() -> float:
    """Seconds that a trace, an edit or another long job may run."""
    return _number(DEADLINE, 300 if public() else 3600)


def most_sessions() -> int:
    """Sessions that may be connected at a time."""
    return int(_number(SESSIONS, 120))


def most_sessions_each() -> int:
    """Sessions that one address may have; behind a proxy all visitors share the proxy's unless it passes theirs on."""
    return int(_number(SESSIONS_EACH, 40 if public() else 120))


def most_edits() -> int:
    """Edits that one session may have active."""
    return PUBLIC_EDITS if public() else EDITS


def most_batches() -> int:
    """Batches that may run at a time."""
    return PUBLIC_BATCHES if public() else BATCHES


def check() -> None:
    """Read every variable once.

    Raises:
        ValueError: if one is not a usable number.
    """
    for limit in (longest_job, most_sessions, most_sessions_each):
        limit()


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = 0.0
    if not 1 <= number < 1e9:
        raise ValueError(f"{name} is {text!r}; give a number of at least 1")
    return number
