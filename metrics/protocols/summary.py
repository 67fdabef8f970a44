"""Summarise many cases under one protocol: means over cases with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.protocols.base import Value
from metrics.protocols.case import CaseScores
from metrics.protocols.registry import get_protocol
from metrics.statistics import bootstrap_cases, harmonic_of_means
from metrics.summary import Summary, mean_over, require_one_way
from metrics.types import Definition, SummaryScore, Way


def summarise(cases: Sequence[CaseScores], *, seed: int = 0) -> Summary:
    """The mean over cases of every number of their protocol; each case weighs the same.

    A derived number, such as ROME's S, is the harmonic mean of the means, as in the papers' tables; its interval comes
    from the same resampled cases.

    Args:
        seed: of the bootstrap.

    Raises:
        ValueError: if there is no case, or they were measured by different protocols, settings or models.
    """
    if not cases:
        raise ValueError("there are no cases to summarise; evaluate at least one")
    require_one_way(
        protocols=(case.protocol for case in cases),
        settings=(case.way for case in cases),
        models=(case.revision for case in cases),
    )
    protocol = get_protocol(cases[0].protocol)
    way = Way(protocol.id, cases[0].model, cases[0].revision, seed)
    scores = []
    for name, definition in protocol.definitions.items():
        values = [case.values[name] for case in cases]
        if name in protocol.derived:
            scores.append(_derived(name, definition, [case.values for case in cases], protocol.derived[name], way))
        else:
            scores.append(mean_over(name, definition, [(value.before, value.after, value.n) for value in values], way))
    return Summary(tuple(scores), len(cases), way)


def _derived(
    name: str, definition: Definition, cases: Sequence[Mapping[str, Value]], parts: Sequence[str], way: Way
) -> SummaryScore:
    after = np.array([[case[part].after for part in parts] for case in cases], dtype=np.float64)
    before = np.array([[case[part].before for part in parts] for case in cases], dtype=np.float64)
    complete = [all(case[part].after is not None for part in parts) for case in cases]
    value, start = float(harmonic_of_means(after)), float(harmonic_of_means(before))
    measured = np.isfinite(value)
    return SummaryScore(
        name=name,
        label=definition.label,
        value=value if measured else None,
        before=start if measured else None,
        n=sum(complete),
        n_prompts=sum(case[part].n for case, whole in zip(cases, complete, strict=True) if whole for part in parts),
        n_left_out=len(cases) - sum(complete),
        ci=bootstrap_cases(after, harmonic_of_means, seed=way.seed) if measured else None,
        change_ci=bootstrap_cases(np.hstack([before, after]), _change, seed=way.seed) if measured else None,
        unit=definition.unit,
        higher_is_better=definition.higher_is_better,
        way=way,
    )


def _change(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., case, before and after] -> [...]"""
    before, after = np.split(pairs, 2, axis=-1)
    return np.asarray(harmonic_of_means(after) - harmonic_of_means(before))
