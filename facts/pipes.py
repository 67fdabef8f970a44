"""Standard output of a command line, for readers that stop early: `… --preview 3 | head`."""

from __future__ import annotations

import io
import sys


class _Pipe(io.FileIO):
    """Standard output; what is written after its reader has gone is dropped."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # whatever a buffer gives
        except BrokenPipeError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def outlive_reader() -> None:
    """Let a command finish quietly where the reader of its output has gone, in place of a BrokenPipeError.

    Called once, before anything is printed, by each module that is run as a command.
    """
    out = sys.stdout
    buffer = io.BufferedWriter(_Pipe(out.fileno(), "wb", closefd=False))
    sys.stdout = io.TextIOWrapper(buffer, out.encoding, out.errors, line_buffering=out.isatty())
