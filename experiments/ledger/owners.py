"""Owners of leases, named so that other processes on the machine can tell whether an owner is still alive."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_numbers = itertools.count(1)
_going_on: set[str] = set()
"""Owners of this process that have not ended; one may have ended without freeing its leases."""


@contextmanager
def owner() -> Iterator[str]:
    """A unique owner name for the block: host, boot, process, start time and a number."""
    name = f"{_machine()}|{os.getpid()}|{_started(os.getpid())}|{next(_numbers)}"
    _going_on.add(name)
    try:
        yield name
    finally:
        _going_on.discard(name)


def is_dead(name: str) -> bool:
    """Whether an owner is known to be gone; False where that cannot be told, as on another machine."""
    machine, pid, started, *_ = [*name.split("|"), "", ""]
    if machine != _machine() or not pid.isdigit() or not started:
        return False
    if int(pid) == os.getpid() and started == _started(os.getpid()):
        return name not in _going_on
    return _started(int(pid)) != started


def host_of(name: str) -> str:
    """The machine's name, for people."""
    return name.partition("/")[0]


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
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended; its parent has not collected it yet
