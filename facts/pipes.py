"""A command line that is cut short: its reader stops early (`… --preview 3 | head`), or somebody presses Ctrl-C."""

from __future__ import annotations

import io
import sys
from types import TracebackType

from facts.language.shell import told


class _Pipe(io.FileIO):
    """Standard output; what is written after its reader has gone is dropped."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # whatever a buffer gives
        except BrokenPipeError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def outlive_reader() -> None:
    """Let a command finish quietly where the reader of its output has gone, and stop with a word at Ctrl-C.

    Called once, before anything is printed, by each module that is run as a command.
    """
    sys.excepthook = _stopped
    out = sys.stdout
    buffer = io.BufferedWriter(_Pipe(out.fileno(), "wb", closefd=False))
    sys.stdout = io.TextIOWrapper(buffer, out.encoding, out.errors, line_buffering=out.isatty())


def _stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"\n{told('stopped')}\n")
    else:
        sys.__excepthook__(kind, error, trace)
