"""What a reader is told of an error: our own sentences, and for all else a number that finds it in the log."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)


def sentence(error: Exception) -> str:
    """What the reader is told.  Our own errors are written for readers; others are logged under a number."""
    if isinstance(error, ValueError | OSError | KeyError) and _is_ours(error):
        text = str(error.args[0]) if error.args else str(error)
        named = any(map(str.isdigit, text.partition(" ")[0]))  # a file or a model keeps its letters
        return (text if named else text[:1].upper() + text[1:]) + ("" if text.endswith((".", ")")) else ".")
    number = uuid.uuid4().hex[:8]
    logger.error("failure %s", number, exc_info=error)
    if isinstance(error, MemoryError):
        return f"The computer ran out of memory; choose fewer samples or a smaller model (log line {number})."
    return f"Something failed that was not foreseen; the server's log has the details under {number}."


def _is_ours(error: Exception) -> bool:
    """Whether a file of this project raised it, so that its words are meant for readers."""
    root = str(Path(__file__).resolve().parents[2])
    traceback = error.__traceback__
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return file.startswith(root) and f"{os.sep}site-packages{os.sep}" not in file
