"""The measures of a run: five that give one number for a whole answer, and one computed from the probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Measure = Literal["probability", "log_probability", "logit_difference", "kl", "rank", "fraction_restored"]
"""probability, log_probability: of the whole answer, teacher-forced.  logit_difference: logit of the answer's first
token minus that of another answer's.  kl: KL(clean || run) in nats, summed over the answer's tokens.  rank: of the
answer among all tokens, 1 for the likeliest; the worst over its tokens.  fraction_restored: the probability on a scale
where the corrupted run is 0 and the clean one 1 (Hase et al. 2023, arXiv:2301.04213, section 4)."""
MEASURES: tuple[Measure, ...] = get_args(Measure)
LOWER_IS_BETTER: tuple[Measure, ...] = ("kl", "rank")
"""Measures that fall when a restored state brings the answer back."""
UNITS: dict[Measure, str] = {
    "probability": "probability",
    "log_probability": "nats",
    "logit_difference": "logits",
    "kl": "nats",
    "rank": "rank",
    "fraction_restored": "of the total effect",
}


@dataclass(frozen=True, eq=False)
class Readings:
    """Every run of a trace by one measure."""

    clean: float
    corrupted: NDArray[np.float32]
    """[sample]."""
    restored: NDArray[np.float32]
    """[sample, pos, layer], or [sample, pos, layer, head]; NaN at positions that were not traced."""
