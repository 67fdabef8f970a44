"""Estimate how long a trace takes on this computer, from earlier traces of the model or a timed forward pass.

A restored run at (layer, token) computes the layers above and the tokens after it, on average half of each.  So a map
is worth

    samples x sites x layers x P (P + 1) / 4    passes of one token through the whole model,

where P tokens are traced: the subject's first and all behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models import LanguageModel

ROWS, PASSES = 8, 3
"""Rows and number of timed passes.  A trace computes many rows at once, which is cheaper per row.  The fastest pass
counts, because the others waited for something else."""
SLOW_SECONDS = 0.25
"""A model that takes this long for one row is timed on one row alone."""


def token_passes(n_tokens: int, first: int, n_layers: int, samples: int, n_sites: int) -> float:
    """Passes of one token through the whole model that a map is worth; `first` is the subject's first position."""
    traced = n_tokens - first
    return samples * n_sites * n_layers * traced * (traced + 1) / 4


def time_forward(model: LanguageModel, prompt: str) -> float:
    """Seconds of one token's pass, measured on rows of the prompt."""
    import torch

    from models import run

    ids = torch.tensor([model.encode(prompt)])

    def timed(rows: int) -> float:
        began = time.perf_counter()
        run(model, ids.repeat(rows, 1), last_only=True)
        return (time.perf_counter() - began) / (rows * ids.shape[1])

    alone = timed(1)
    return alone if alone * ids.shape[1] > SLOW_SECONDS else min(timed(ROWS) for _ in range(PASSES))


class Paces:
    """Seconds of one token's pass, by model and by sites; the time of a trace replaces the estimate."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()

    def put(self, model: str, seconds: float, sites: Sequence[str] = ()) -> None:
        """Remember a measurement; without sites, one of a plain forward pass."""
        with self._lock:
            self._seconds[model, tuple(sites)] = seconds

    def get(self, model: str, sites: Sequence[str] = ()) -> float | None:
        """The pace of these sites, else of another trace of the model, else of its forward pass; None if unknown."""
        with self._lock:
            if (model, tuple(sites)) in self._seconds:
                return self._seconds[model, tuple(sites)]
            traces = [seconds for (name, traced), seconds in self._seconds.items() if name == model and traced]
            return traces[-1] if traces else self._seconds.get((model, ()))
