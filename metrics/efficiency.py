"""Efficiency: what an edit costs in time, memory and changed weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from metrics.asking.scoring import not_measured
from metrics.types import Definition, Evidence, Measured, Metric

if TYPE_CHECKING:
    import torch

    from models import LanguageModel


@dataclass
class Stopwatch:
    """Seconds of a `with stopwatch() as timer:` block."""

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
    """Peak memory so far: torch's on a GPU, else the process's; None where the system does not report it."""
    import torch  # here, so that the definitions can be read without it

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

    A parameter that only the edited model has counts as changed in full.  The norm is None if it is not finite.
    """
    own = {name: tensor.detach() for name, tensor in base.module.named_parameters()}
    changed, total, squares = 0, 0, 0.0
    for name, parameter in edited.module.named_parameters():
        tensor = parameter.detach()
        total += tensor.numel()
        original = own.get(name)
        if original is not None and original.shape == tensor.shape:
            if original.data_ptr() == tensor.data_ptr():
                continue
            changed += int((original != tensor).sum())
            squares += float((tensor.double() - original.double()).square().sum())
        else:
            changed += tensor.numel()
            squares += float(tensor.double().square().sum())
    return changed, total, math.sqrt(squares) if math.isfinite(squares) else None


_SECONDS = {
    "trace": "Wall time of the causal trace.",
    "moments": "Wall time of estimating or loading the second moment of the keys, once per model.",
    "value": "Wall time of optimising the value vector.",
    "solve": "Wall time of solving for the weight change.",
    "apply": "Wall time of making the edited model from the base and the change.",
    "undo": "Wall time of going back to the unedited model.",
    "evaluate": "Wall time of this evaluation.",
}

_EFFICIENCY: dict[str, Definition] = {
    "seconds": Definition(
        "Edit time",
        "measured",
        "s",
        False,
        "Wall time of the edit: the measured ones of value, solve and apply; without tracing, evaluation and the "
        "second moment, which is estimated once per model.",
    ),
    **{
        f"{stage}_seconds": Definition(f"{stage.capitalize()} time", "measured", "s", False, sentence)
        for stage, sentence in _SECONDS.items()
    },
    "peak_memory": Definition(
        "Peak memory",
        "measured",
        "bytes",
        False,
        "Most memory held by the process (on a GPU: by torch) up to the measurement.",
    ),
    "parameters_changed": Definition(
        "Parameters changed",
        "measured",
        "entries",
        False,
        "Number of weight entries that differ from the unedited model.",
    ),
    "parameters_share": Definition(
        "Share changed",
        "measured",
        "share",
        False,
        "Weight entries that differ from the unedited model, as a share of all.",
    ),
    "delta_norm": Definition(
        "Size of the change", "measured", "norm", False, "Frobenius norm of the difference of all weights."
    ),
}


def _efficiency(evidence: Evidence) -> dict[str, Measured]:
    """The measured costs, without a value before and without intervals."""
    costs = evidence.efficiency
    changed, total = costs.parameters_changed, costs.parameters_total
    numbers: dict[str, float | None] = {
        "seconds": costs.edit_seconds,
        **{f"{stage}_seconds": getattr(costs, f"{stage}_seconds") for stage in _SECONDS},
        "peak_memory": costs.peak_memory_bytes,
        "parameters_changed": changed,
        "parameters_share": None if changed is None or not total else changed / total,
        "delta_norm": costs.delta_norm,
    }
    return {
        key: not_measured(f"no {_MISSING[key]} was recorded") if value is None else Measured(value)
        for key, value in numbers.items()
    }


_MISSING = {
    "seconds": "time of an edit stage",
    **{f"{stage}_seconds": f"{stage} time" for stage in _SECONDS},
    "peak_memory": "peak memory",
    "parameters_changed": "number of changed parameters",
    "parameters_share": "number of parameters",
    "delta_norm": "size of the change",
}

EFFICIENCY = Metric(
    name="efficiency",
    label="Efficiency",
    question="What did the edit cost?",
    headline="seconds",
    definitions=_EFFICIENCY,
    measure=_efficiency,
    prompted=False,
)
