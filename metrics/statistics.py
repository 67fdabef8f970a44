"""Intervals for shares, for paired changes and for means.  Deterministic: resampling takes a seed.

Wilson's interval and the bootstrap equal SciPy's (a test compares them); importing `scipy.stats` takes over a second.

* One share: Wilson score interval (Wilson 1927, JASA 22:209; Newcombe 1998, Stat Med 17:857, method 3).
* Change of a share measured twice on the same prompts: Newcombe 1998, Stat Med 17:2635, method 10.
* Mean, median or perplexity, and its change: percentile bootstrap over prompts (Efron and Tibshirani 1993, chapter 13).

All intervals are 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""[..., prompt] -> [...]; a statistic of several numbers a prompt takes [..., prompt, number]."""

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

RESAMPLES = 2000
FEWEST = 3
"""Values that are resampled: of two there are but three different means."""


def wilson(successes: float, n: float) -> Interval:
    """Wilson score interval of the share `successes / n`; means, where the same cases were tried several times.

    Raises:
        ValueError: if `n` is not positive or `successes` is not between 0 and `n`.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no share; expected 0 <= successes <= n and n >= 1")
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    # The exact ends at 0 and n; without this, rounding leaves 1e-17 where the formula gives 0.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def paired_share_change(before: Sequence[bool], after: Sequence[bool]) -> Interval:
    """Interval of share(after) - share(before) on the same prompts: Newcombe's square-and-add with correlation.

    Raises:
        ValueError: if the two sequences differ in length or are empty.
    """
    _check_paired(len(before), len(after))
    n = len(before)
    both = sum(b and a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    neither = n - both - gained - lost
    share_after, share_before = (both + gained) / n, (both + lost) / n
    low_after, high_after = wilson(both + gained, n)
    low_before, high_before = wilson(both + lost, n)
    phi = _correlation(both, gained, lost, neither)
    below, above = share_after - low_after, high_after - share_after
    before_below, before_above = share_before - low_before, high_before - share_before
    down = below**2 - 2 * phi * below * before_above + before_above**2
    up = above**2 - 2 * phi * above * before_below + before_below**2
    change = share_after - share_before
    return change - math.sqrt(max(0.0, down)), change + math.sqrt(max(0.0, up))


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi of the two by two table with Newcombe's continuity correction; 0 where a margin is empty."""
    n = both + gained + lost + neither
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    corrected = max(product - n / 2, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis."""
    return np.asarray(values.mean(axis=-1))


def median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the last axis."""
    return np.asarray(np.median(values, axis=-1))


def perplexity(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., text, 2] of (nll, tokens) -> [...] perplexity; capped at the largest float."""
    totals = sums.sum(axis=-2)
    limit = np.log(np.finfo(np.float64).max)
    return np.asarray(np.exp(np.minimum(totals[..., 0] / totals[..., 1], limit)))


def bootstrap(values: ArrayLike, statistic: Statistic = mean, *, seed: int = 0) -> Interval | None:
    """Percentile bootstrap interval of a statistic; None for fewer than two values.

    Raises:
        ValueError: if there are no values or one is not finite.
    """
    array = _finite(values)
    if len(array) < FEWEST:
        return None
    return _percentiles(statistic(array[_resamples(len(array), seed)]))


def paired_bootstrap(
    before: ArrayLike, after: ArrayLike, statistic: Statistic = mean, *, seed: int = 0
) -> Interval | None:
    """Interval of statistic(after) - statistic(before); pairs are resampled together.

    Raises:
        ValueError: if the sequences differ in length, are empty or hold a value that is not finite.
    """
    first, second = _finite(before), _finite(after)
    _check_paired(len(first), len(second))
    if len(first) < FEWEST:
        return None
    index = _resamples(len(first), seed)
    return _percentiles(statistic(second[index]) - statistic(first[index]))


def harmonic_of_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., case, number] -> [...]: each number's mean over the cases that have it (NaN: not measured), then the
    harmonic mean of those; NaN where a number has no case, 0 where a mean is 0."""
    present = np.isfinite(values)
    counts = present.sum(axis=-2)
    sums = np.where(present, values, 0.0).sum(axis=-2)
    means = np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    inverse = np.divide(1.0, means, out=np.full(means.shape, np.inf), where=means != 0)
    return np.asarray(means.shape[-1] / inverse.sum(axis=-1))


def bootstrap_cases(values: NDArray[np.float64], statistic: Statistic, *, seed: int = 0) -> Interval | None:
    """Percentile interval of a statistic of [case, number] over resampled cases; resamples in which it is not defined
    are left out.  None for fewer than `FEWEST` cases."""
    if len(values) < FEWEST:
        return None
    drawn = statistic(values[_resamples(len(values), seed)])
    return _percentiles(drawn[np.isfinite(drawn)])


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum(1 / value), the score S of Meng et al. 2022, table 4; 0 when any value is 0.

    Raises:
        ValueError: if there are no values or one is negative.
    """
    if not values or min(values) < 0:
        raise ValueError(
            f"the harmonic mean of {list(values)!r} is not defined; give at least one value, none negative"
        )
    if min(values) == 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)


def _resamples(n: int, seed: int) -> NDArray[np.int64]:
    """[resample, prompt] indices."""
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{array.tolist()!r} cannot be summarised; expected at least one value, all of them finite")
    return array


def _check_paired(n_before: int, n_after: int) -> None:
    if n_before != n_after or n_before == 0:
        raise ValueError(f"{n_before} values before and {n_after} after; expected the same prompts twice, at least one")
