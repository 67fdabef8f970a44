"""The most memory the process held since a moment, where the system tells; else since it began."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from metrics import peak_memory_bytes

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Forget the peak so far, on Linux."""
    with suppress(OSError):  # elsewhere the peak since the start is all there is
        _RESET.write_text("5")


def since_reset() -> int | None:
    """Peak resident memory in bytes since `reset_peak`; None where the system does not tell."""
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return peak_memory_bytes()
