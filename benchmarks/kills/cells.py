"""Cheap, deterministic cells without a model, and cells that fail on purpose; for kill tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.kinds import Context, kind
from experiments.plan import Spec


@kind("draw")
def draw(model: Any, spec: Spec, context: Context) -> dict[str, Any]:
    """Random numbers from a seed, after a pause."""
    context.notes["pid"] = os.getpid()
    time.sleep(spec.get("seconds", 0.0))
    values = np.random.default_rng(spec["seed"]).normal(size=spec.get("n", 64)).astype(np.float32)
    return {"seed": spec["seed"], "mean": float(values.mean(dtype=np.float64)), "values": values}


@kind("poison")
def poison(model: Any, spec: Spec, context: Context) -> dict[str, Any]:
    """A cell that fails: it raises, kills its process, hangs, or asks for too much memory.

    With `until`, the name of a file that the cell creates, it fails only while the file does not exist.
    """
    until = spec.get("until")
    if until and Path(until).exists():
        return {"survived": True}
    if until:
        Path(until).touch()
    match spec["how"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(3600)
        case "memory":
            raise MemoryError("out of memory: 1.0 TiB are needed")
    raise RuntimeError("the cell is poisoned")
