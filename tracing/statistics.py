"""95 % intervals from Student's t, in closed form (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4), without SciPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


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
        low, high = (theta, high) if _central_mass(theta, degrees) < confidence else (low, theta)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _central_mass(theta: float, degrees: int) -> float:
    """P(|T| < tan(theta) * sqrt(degrees)), the finite sums of 26.7.3 (odd) and 26.7.4 (even)."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(3 if odd else 2, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (power - 1) / power
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def interval(values: ArrayLike, axis: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % t-interval of the mean along `axis`, NaNs left out; NaN where fewer than two values remain."""
    array = np.asarray(values, dtype=np.float64)
    count = np.sum(~np.isnan(array), axis=axis)
    filled = np.where(np.isnan(array), 0.0, array)
    usable = np.where(count > 1, count, 2)
    mean = filled.sum(axis) / usable
    deviation = np.where(np.isnan(array), 0.0, array - np.expand_dims(mean, axis))
    sd = np.sqrt((deviation**2).sum(axis) / (usable - 1))
    quantile = np.vectorize(lambda n: t_quantile(int(n) - 1), otypes=[float])(usable)
    half = np.where(count > 1, quantile * sd / np.sqrt(usable), np.nan)
    return mean - half, mean + half


def nan_mean(values: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """The mean along `axis` with NaNs left out; NaN, without a warning, where nothing remains."""
    array = np.asarray(values, dtype=np.float64)
    count = np.sum(~np.isnan(array), axis=axis)
    total = np.where(np.isnan(array), 0.0, array).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
