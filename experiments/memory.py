"""Check a cell's estimated memory against the free memory before running it.

Free is the lesser of the machine's free memory and what is left under the control group's limit, as set by a container
or `systemd-run`; the kernel kills a process that exceeds either.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from experiments.kinds import Kind
    from experiments.plan import Spec
    from models import LanguageModel

SHARE = 0.5
"""Share of the free memory that a batch may fill; the rest covers what the estimate leaves out."""
FIXED = 8 * 2**20
"""Bytes that any cell takes: buffers of the libraries, and memory the allocator does not return."""
PASS = 2
"""Upper bound of a forward's peak memory, in multiples of `tracing.engine.memory.Pass` (`benchmarks.estimates`)."""
_CGROUP = Path("/sys/fs/cgroup")


class MemoryRefusedError(MemoryError):
    """A cell does not fit; the message says how much it needs and how much is free."""


def free_bytes(device: torch.device) -> int:
    """Free bytes on a device."""
    from tracing.engine.memory import free_memory

    free = free_memory(device)
    limit = cgroup_room() if device.type == "cpu" else None
    return free if limit is None else min(free, limit)


def cgroup_room(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes left under the tightest limit of this process's control groups (version 2); None where there is none."""
    if not membership.is_file():
        return None
    own = next((line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")), None)
    if own is None:
        return None
    rooms = []
    folder = root / own.strip("/")
    for place in (folder, *folder.parents):
        limit, current = _number(place / "memory.max"), _number(place / "memory.current")
        if limit is not None and current is not None:
            rooms.append(max(0, limit - current + _reclaimable(place / "memory.stat")))
        if place == root:
            break
    return min(rooms, default=None)


def check_fits(model: LanguageModel, kind: Kind, spec: Spec, share: float = 1.0) -> None:
    """Check that a cell fits in the free memory.

    Args:
        share: of the free memory that this worker may use.

    Raises:
        MemoryRefusedError: if it does not, naming both numbers.
    """
    needed, free = kind.estimate_bytes(model, spec), int(share * free_bytes(model.device))
    if needed > free:
        raise MemoryRefusedError(
            f"the cell needs about {_size(needed)} and {_size(free)} are free for it on {model.device}; "
            "use fewer workers, a shorter prompt, or a machine with more memory"
        )


def batch_that_fits(row: int, device: torch.device, share: float, halvings: int, most: int) -> int:
    """Rows of one forward pass: as many as fit, halved `halvings` times, at least one.

    Args:
        row: bytes of one row.
        most: upper limit.
    """
    fit = int(SHARE * share * free_bytes(device)) // max(1, row)
    return max(1, min(most, fit) >> halvings)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, as for "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    """Bytes of cached files, which count as used but are freed when memory is needed."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
