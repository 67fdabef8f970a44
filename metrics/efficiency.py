"""Efficiency: what an edit costs in time, memory and changed weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from metrics.asking.scoring import measured_score
from metrics.types import Score

if TYPE_CHECKING:
    from models import LanguageModel

EDIT_STAGES = ("moments", "value", "solve", "apply")
"""Stages whose seconds add up to the edit time."""


@dataclass(frozen=True)
class Efficiency:
    """Measured by whoever runs the edit; None means not measured.

    Raises:
        ValueError: if a number is negative or not finite.
    """

    trace_seconds: float | None = None
    moments_seconds: float | None = None
    value_seconds: float | None = None
    solve_seconds: float | None = None
    apply_seconds: float | None = None
    undo_seconds: float | None = None
    evaluate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    parameters_changed: int | None = None
    parameters_total: int | None = None
    delta_norm: float | None = None
    """Frobenius norm of edited minus base over all weights."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} is {value!r}; expected a finite number of at least 0, or None")

    @property
    def edit_seconds(self) -> float | None:
        """Sum of the measured edit stages; None if none was measured."""
        known = [getattr(self, f"{stage}_seconds") for stage in EDIT_STAGES]
        measured = [seconds for seconds in known if seconds is not None]
        return sum(measured) if measured else None


@dataclass
class Stopwatch:
    """Seconds of a `with stopwatch() as watch:` block."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure the wall time of a block, also when it raises."""
    watch, start = Stopwatch(), perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = perf_counter() - start


def peak_memory_bytes(device: torch.device | str = "cpu") -> int | None:
    """Most memory held so far: by torch on a GPU, else by the whole process; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def weight_change(base: LanguageModel, edited: LanguageModel) -> tuple[int, int, float | None]:
    """(entries that differ, entries in all, Frobenius norm of the difference); tensors shared by both are not read.

    A parameter only the edited model has counts as changed in full.  The norm is None when it is not finite.
    """
    own = {name: tensor.detach() for name, tensor in base.module.named_parameters()}
    changed, total, squares = 0, 0, 0.0
    for name, parameter in edited.module.named_parameters():
        tensor = parameter.detach()
        total += tensor.numel()
        known = own.get(name)
        if known is not None and known.shape == tensor.shape:
            if known.data_ptr() == tensor.data_ptr():
                continue
            changed += int((known != tensor).sum())
            squares += float((tensor.double() - known.double()).square().sum())
        else:
            changed += tensor.numel()
            squares += float(tensor.double().square().sum())
    return changed, total, math.sqrt(squares) if math.isfinite(squares) else None


def efficiency_scores(efficiency: Efficiency) -> list[Score]:
    """The numbers as scores; what the caller did not measure is "not measured"."""
    changed, total = efficiency.parameters_changed, efficiency.parameters_total
    share = None if changed is None or not total else changed / total
    stages = ("trace", *EDIT_STAGES, "undo", "evaluate")
    numbers: dict[str, float | None] = {
        "seconds": efficiency.edit_seconds,
        **{f"{stage}_seconds": getattr(efficiency, f"{stage}_seconds") for stage in stages},
        "peak_memory": efficiency.peak_memory_bytes,
        "parameters_changed": changed,
        "parameters_share": share,
        "delta_norm": efficiency.delta_norm,
    }
    return [
        measured_score(f"efficiency.{key}", value, f"no {LABELS[key]} was recorded") for key, value in numbers.items()
    ]


LABELS = {
    "seconds": "time of an edit stage",
    **{f"{stage}_seconds": f"{stage} time" for stage in ("trace", *EDIT_STAGES, "undo", "evaluate")},
    "peak_memory": "peak memory",
    "parameters_changed": "number of changed parameters",
    "parameters_share": "number of parameters",
    "delta_norm": "size of the change",
}
