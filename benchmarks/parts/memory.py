"""Peak memory of the process since a chosen moment, or since its start where the system reports only that."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from metrics import peak_memory_bytes

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> int | None:
    """Reset the peak (on Linux) and return the resident memory now, in bytes.

    Freed memory is first returned to the system, since it would otherwise hide later allocations.
    """
    with suppress(OSError, AttributeError):  # only glibc can return it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # other systems report only the peak since the start
        _RESET.write_text("5")
    return _status_bytes("VmRSS:")


def since_reset() -> int | None:
    """Peak resident memory in bytes since `reset_peak`; None where the system does not report it."""
    peak = _status_bytes("VmHWM:")
    return peak_memory_bytes() if peak is None else peak


def _status_bytes(field: str) -> int | None:
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return None
