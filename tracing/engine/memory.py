"""How many rows fit into one forward: free memory, memory of a row, and the error if it was too much."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from models import LanguageModel

CPU_POSITIONS = 2048
"""Rows x positions of one pass on a CPU: enough to fill its matrix units; more leaves the caches."""
SHARE = 0.5
"""Share of the free memory that a pass may take; the rest covers what the estimate leaves out."""

LARGEST_KEPT = 31 << 20
"""Bytes; the C library takes up to 32 MiB for a hint."""


class TraceMemoryError(MemoryError):
    """A pass did not fit; the message names its size, the estimate and the `batch_size` that would fit."""


@dataclass(frozen=True)
class Pass:
    """The size of one forward."""

    rows: int
    positions: int
    """In each row."""
    keys: int
    """That a position may read."""
    predicted: int
    """Positions in each row whose logits are needed."""

    def bytes(self, model: LanguageModel) -> int:
        """Estimated bytes in use at once: one block's activations, scores, keys and values, and the logits."""
        config, width = model.module.config, model.dtype.itemsize
        inner = int(getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None) or 4 * model.d_model)
        activations = self.positions * (8 * model.d_model + 3 * inner) * width
        scores = 2 * self.positions * self.keys * model.n_heads * width
        keys_values = 2 * self.keys * model.d_model * width
        logits = self.predicted * model.d_vocab * (width + 8)  # in float32, and once more inside logsumexp
        return self.rows * (activations + scores + keys_values + logits)

    def rows_that_fit(self, model: LanguageModel) -> int:
        """How many rows of this shape fit into the free memory, at least one."""
        row_bytes = Pass(1, self.positions, self.keys, self.predicted).bytes(model)
        if model.device.type != "cpu":
            return max(1, int(SHARE * free_memory(model.device)) // row_bytes)
        most = max(1, CPU_POSITIONS // self.positions)
        return min(
            most, max(1, int(SHARE * free_memory(model.device, enough=int(most * row_bytes / SHARE) + 1)) // row_bytes)
        )

    def did_not_fit(self, model: LanguageModel) -> TraceMemoryError:
        """The error for this pass."""
        free = free_memory(model.device)
        fit = min(self.rows // 2, self.rows_that_fit(model))
        advice = f"set batch_size to {fit} or less" if fit >= 1 else "trace fewer positions, or a shorter prompt"
        return TraceMemoryError(
            f"out of memory in a forward of {self.rows} rows of {self.positions} positions: about "
            f"{_gib(self.bytes(model))} are needed and {_gib(free)} are free on {model.device}; {advice}"
        )


@cache
def keep_freed_pages() -> None:
    """Make the C library keep freed memory for the next layer.

    glibc returns freed memory to the system above twice the size of the largest block that was ever mapped and freed.
    Every layer's activations then come as fresh pages that the system zeroes, thousands in a map of the bundled model.
    Allocating and freeing one large block, without writing to it, raises that bound for the process.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def free_memory(device: torch.device, enough: int | None = None) -> int:
    """Bytes available on a device.

    Args:
        enough: stop counting here.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if enough is not None and "SC_AVPHYS_PAGES" in os.sysconf_names:
        unused = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        if unused >= enough:  # an underestimate, but a thousand times faster to get
            return unused
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: an exception type on accelerators, a message on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
