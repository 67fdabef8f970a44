"""Intervals and tests from Student's t.

A map has hundreds of cells, so a test per cell needs a correction.  Holm 1979 keeps the chance of *any* false cell
below alpha; Benjamini & Hochberg 1995 keeps the *share* of false cells among those marked below it, and marks more.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FEWEST = 3
"""Values an interval needs: of two it is 12.7 standard errors to each side, wider than anything that is measured."""
Correction = Literal["holm", "benjamini-hochberg", "none"]


def t_quantile(degrees: ArrayLike, confidence: float = CONFIDENCE) -> NDArray[np.float64]:
    """The t with P(|T| < t) = `confidence` at `degrees` of freedom; 2.262 for 9 degrees and 95 %.

    Raises:
        ValueError: if `degrees` is below 1.
    """
    from scipy.special import stdtrit  # here: its import takes a third of a second

    if np.min(degrees) < 1:
        raise ValueError(f"degrees of freedom is {np.min(degrees)}; an interval needs at least two values")
    return np.asarray(stdtrit(degrees, (1 + confidence) / 2))


def interval(
    values: ArrayLike, axis: int = 0, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The t-interval of the mean along `axis`, NaNs left out; NaN where fewer than `FEWEST` remain."""
    array = np.asarray(values, dtype=np.float64)
    count = np.sum(~np.isnan(array), axis=axis)
    filled = np.where(np.isnan(array), 0.0, array)
    usable = np.where(count >= FEWEST, count, FEWEST)
    mean = filled.sum(axis) / usable
    deviation = np.where(np.isnan(array), 0.0, array - np.expand_dims(mean, axis))
    sd = np.sqrt((deviation**2).sum(axis) / (usable - 1))
    half = np.where(count >= FEWEST, t_quantile(usable - 1, confidence) * sd / np.sqrt(usable), np.nan)
    return mean - half, mean + half


def nan_mean(values: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """The mean along `axis` with NaNs left out; NaN, without a warning, where nothing remains."""
    array = np.asarray(values, dtype=np.float64)
    count = np.sum(~np.isnan(array), axis=axis)
    total = np.where(np.isnan(array), 0.0, array).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def t_test(differences: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Two-sided p-values of paired differences being 0 on average along `axis`, by Student's t, NaNs left out.

    NaN where fewer than two values remain.  Where all are the same there is no spread to compare with: p is 1 if they
    are 0 and 0 otherwise.
    """
    from scipy.special import stdtr

    array = np.moveaxis(np.asarray(differences, dtype=np.float64), axis, 0)
    present = ~np.isnan(array)
    count = present.sum(axis=0)
    filled = np.where(present, array, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    deviation = np.where(present, array - mean, 0.0)
    error = np.sqrt((deviation**2).sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    # a spread of the size of rounding counts as none
    flat = error <= 1e-9 * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(np.where(flat, 0.0, mean / error))
    p = np.where(flat & (mean != 0), 0.0, 2 * stdtr(np.maximum(count - 1, 1), -t))
    return np.where(count > 1, p, np.nan)


def adjust(p_values: ArrayLike, correction: Correction = "holm") -> NDArray[np.float64]:
    """p-values corrected for how many there are; compare them with alpha.  NaNs stay and do not count.

    Raises:
        ValueError: if the correction is unknown.
    """
    if correction not in get_args(Correction):
        raise ValueError(f"unknown correction {correction!r}; choose from {', '.join(get_args(Correction))}")
    p = np.array(p_values, dtype=np.float64)
    flat = p[~np.isnan(p)]
    order = np.argsort(flat, kind="stable")
    ranked, number = flat[order], len(flat)
    if correction == "holm":
        ranked = np.maximum.accumulate(ranked * (number - np.arange(number)))
    elif correction == "benjamini-hochberg":
        ranked = np.minimum.accumulate((ranked * number / (np.arange(number) + 1))[::-1])[::-1]
    adjusted = np.empty(number)
    adjusted[order] = np.minimum(ranked, 1.0)
    p[~np.isnan(p)] = adjusted
    return p


def significant(
    differences: ArrayLike, axis: int = 0, *, alpha: float = 0.05, correction: Correction = "holm"
) -> NDArray[np.bool_]:
    """Which means along `axis` differ from 0, by `t_test` at level `alpha` after `adjust` over all other axes."""
    return adjust(t_test(differences, axis), correction) < alpha
