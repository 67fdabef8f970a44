"""The most memory the process held since a moment, where the system tells; else since it began."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from metrics import peak_memory_bytes

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> int | None:
    """Forget the peak so far, on Linux, and tell what the process holds now, in bytes.

    What was freed is first given back to the system: else it would hide what is taken next.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc keeps it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # elsewhere the peak since the start is all there is
        _RESET.write_text("5")
    return _status_bytes("VmRSS:")


def since_reset() -> int | None:
    """Peak resident memory in bytes since `reset_peak`; None where the system does not tell."""
    peak = _status_bytes("VmHWM:")
    return peak_memory_bytes() if peak is None else peak


def _status_bytes(field: str) -> int | None:
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return None
