"""Slow work in a process of its own, which can be watched and ended, unlike a thread."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0


class ChildError(Exception):
    """The process ended with an error; the text is what it printed."""


def run_child(
    arguments: Sequence[str], *, poll: Callable[[], None], environment: Mapping[str, str] | None = None
) -> str:
    """Run `python ARGUMENTS` in the project's folder and return what it printed.

    Args:
        poll: called about ten times a second while the process runs; the process is ended if it raises.
        environment: variables to set beside this process's.

    Raises:
        ChildError: if the process ends with an error.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not _ended(process):
                poll()
        finally:
            _end(process)
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if process.returncode:
        raise ChildError(printed)
    return printed


def reason(failed: ChildError) -> str:
    """The last line that a failed child printed, without the name of the exception before it."""
    lines = str(failed).strip().splitlines() or ["no reason was given"]
    kind, _, message = lines[-1].partition(": ")
    return message if message and kind.replace(".", "").isidentifier() else lines[-1]


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_POLL_SECONDS)
    return process.poll() is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
