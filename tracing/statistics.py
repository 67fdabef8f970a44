"""Intervals and tests from Student's t, in closed form (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4), without SciPy.

A map has hundreds of cells, so a test per cell needs a correction.  Holm 1979 keeps the chance of *any* false cell
below alpha; Benjamini & Hochberg 1995 keeps the *share* of false cells among those marked below it, and marks more.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
Correction = Literal["holm", "benjamini-hochberg", "none"]


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = `confidence` at `degrees` of freedom; 2.262 for 9 degrees and 95 %.

    Raises:
        ValueError: if `degrees` is below 1.
    """
    if degrees < 1:
        raise ValueError(f"degrees of freedom is {degrees}; an interval needs at least two values")
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # bisection on theta = atan(t / sqrt(degrees)), down to float64 precision
        theta = (low + high) / 2
        low, high = (theta, high) if float(_central_mass(theta, degrees)) < confidence else (low, theta)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _central_mass(theta: float | NDArray[np.float64], degrees: int) -> NDArray[np.float64]:
    """P(|T| < tan(theta) * sqrt(degrees)), the finite sums of 26.7.3 (odd) and 26.7.4 (even); [...] as theta."""
    sine, cosine = np.sin(theta), np.cos(theta)
    odd = degrees % 2 == 1
    term, total = (cosine, 0.0 * cosine) if odd else (1.0 + 0.0 * cosine, 0.0 * cosine)
    for power in range(3 if odd else 2, degrees + 1, 2):
        total = total + term
        term = term * cosine * cosine * (power - 1) / power
    mass: NDArray[np.float64] = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return mass


def interval(
    values: ArrayLike, axis: int = 0, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The t-interval of the mean along `axis`, NaNs left out; NaN where fewer than two values remain."""
    array = np.asarray(values, dtype=np.float64)
    count = np.sum(~np.isnan(array), axis=axis)
    filled = np.where(np.isnan(array), 0.0, array)
    usable = np.where(count > 1, count, 2)
    mean = filled.sum(axis) / usable
    deviation = np.where(np.isnan(array), 0.0, array - np.expand_dims(mean, axis))
    sd = np.sqrt((deviation**2).sum(axis) / (usable - 1))
    counts, where = np.unique(usable, return_inverse=True)
    quantile = np.array([t_quantile(int(number) - 1, confidence) for number in counts])[where].reshape(np.shape(usable))
    half = np.where(count > 1, quantile * sd / np.sqrt(usable), np.nan)
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
    array = np.moveaxis(np.asarray(differences, dtype=np.float64), axis, 0)
    present = ~np.isnan(array)
    count = present.sum(axis=0)
    filled = np.where(present, array, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    deviation = np.where(present, array - mean, 0.0)
    error = np.sqrt((deviation**2).sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    # a spread of mere rounding is none
    flat = error <= 1e-9 * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(np.where(flat, 0.0, mean / error))
    p = np.ones(mean.shape)
    for number in np.unique(count[count > 1]):
        cells = count == number
        p[cells] = 1 - _central_mass(np.arctan(t[cells] / math.sqrt(number - 1)), int(number) - 1)
    p = np.where(flat & (mean != 0), 0.0, np.clip(p, 0.0, 1.0))
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
