"""Who holds a lease: a process, named so that another one on the same machine can tell whether it still lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Host, boot, process id and start time: no other process ever has the same."""
    return f"{_machine()}|{os.getpid()}|{_started(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether a process is known to be gone; False where that cannot be told, as for one of another machine."""
    machine, pid, started, *_ = [*owner.split("|"), "", ""]
    if machine != _machine() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started


def host_of(owner: str) -> str:
    """The machine's name, for people."""
    return owner.partition("/")[0]


def _machine() -> str:
    boot = _BOOT.read_text().strip()[:8] if _BOOT.is_file() else ""
    return f"{platform.node()}/{boot}"


def _started(pid: int) -> str:
    """Clock ticks from boot to the process's start; empty where there is no such process or no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]  # a zombie is dead, its parent has not looked yet
