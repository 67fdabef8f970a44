"""Does tracing say where to edit?  The regression of Hase et al. 2023, section 5 (arXiv:2301.04213).

Edit success y and tracing effect x of every fact f at every layer l:

    y_fl = a_l + b x_fl + e_fl      a_l: a constant for each layer (fixed effects)

R^2 of the layers alone, of the tracing effect alone, and of both; what tracing adds to the layers is the difference.
With all facts at all layers these have a closed form: S are sums of squares and products around layer means,
T is the sum of squares around the mean of all,

    R^2_layers = 1 - S_yy / T      b = S_xy / S_xx      R^2_both = 1 - (S_yy - S_xy^2 / S_xx) / T

Intervals resample facts whole, since the layers of one fact are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEWEST = 5
"""Facts that are needed for an interval, and for showing R²: a line through two or three facts says nothing."""
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Regression:
    """R^2 of three models, with 95 % intervals over facts; NaN where nothing varies."""

    n_facts: int
    n_layers: int
    r2_layers: float
    r2_tracing: float
    r2_both: float
    added: float
    """r2_both - r2_layers."""
    added_ci: Interval
    slope: float
    """b: increase of edit success for a tracing effect higher by 1, within a layer."""
    slope_ci: Interval


def regress(effect: Array, success: Array, *, seed: int = 0) -> Regression:
    """The regression of `success` on `effect`, both [fact, layer].

    Raises:
        ValueError: if they differ in shape, or hold a number that is not finite, or fewer than two facts.
    """
    from metrics.statistics import bootstrap_cases

    if effect.shape != success.shape or effect.ndim != 2 or len(effect) < 2:
        raise ValueError(
            f"effects of shape {effect.shape} and successes of {success.shape}; expected both [fact, layer], with at "
            "least two facts"
        )
    if not (np.isfinite(effect).all() and np.isfinite(success).all()):
        raise ValueError("an effect or a success is not finite; leave that fact out")
    both = np.stack([effect, success], axis=2).reshape(len(effect), -1)

    def number(of: Callable[[Array], Array]) -> tuple[float, Interval]:
        value = float(of(both))
        few = len(effect) < FEWEST or np.isnan(value)
        return value, None if few else bootstrap_cases(both, of, seed=seed)

    slope, slope_ci = number(_slope)
    added, added_ci = number(lambda values: r2_both(values) - r2_layers(values))
    return Regression(
        n_facts=len(effect),
        n_layers=effect.shape[1],
        r2_layers=float(r2_layers(both)),
        r2_tracing=float(r2_tracing(both)),
        r2_both=float(r2_both(both)),
        added=added,
        added_ci=added_ci,
        slope=slope,
        slope_ci=slope_ci,
    )


def r2_layers(values: Array) -> Array:
    """[..., fact, layer x 2] -> [...]"""
    _, success = _split(values)
    return 1 - _squares(success, success, (-2,)) / _total(success)


def r2_tracing(values: Array) -> Array:
    """[..., fact, layer x 2] -> [...]: the squared correlation over all facts and layers."""
    effect, success = _split(values)
    return _explained(effect, success, (-2, -1)) / _total(success)


def r2_both(values: Array) -> Array:
    """[..., fact, layer x 2] -> [...]"""
    effect, success = _split(values)
    return r2_layers(values) + _explained(effect, success, (-2,)) / _total(success)


def _slope(values: Array) -> Array:
    effect, success = _split(values)
    return _ratio(_squares(effect, success, (-2,)), _squares(effect, effect, (-2,)))


def _explained(effect: Array, success: Array, axes: tuple[int, ...]) -> Array:
    """S_xy^2 / S_xx; 0 where the effect does not vary."""
    spread = _squares(effect, effect, axes)
    return np.where(spread > 0, _ratio(_squares(effect, success, axes) ** 2, spread), 0.0)


def _total(success: Array) -> Array:
    return np.where((total := _squares(success, success, (-2, -1))) > 0, total, np.nan)


def _squares(left: Array, right: Array, axes: tuple[int, ...]) -> Array:
    """Sum of products around the means along `axes`, over facts and layers: [..., fact, layer] -> [...]"""
    centred = (left - left.mean(axis=axes, keepdims=True)) * (right - right.mean(axis=axes, keepdims=True))
    return np.asarray(centred.sum(axis=(-2, -1)))


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _split(values: Array) -> tuple[Array, Array]:
    """(effect, success), each [..., fact, layer]."""
    pairs = values.reshape(*values.shape[:-1], -1, 2)
    return pairs[..., 0], pairs[..., 1]
