"""Intervals against published and hand-worked numbers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from metrics.statistics import (
    RESAMPLES,
    bootstrap,
    harmonic_mean,
    median,
    paired_bootstrap,
    paired_share_change,
    wilson,
)


def _answers(both: int, before_only: int, after_only: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * (both + before_only) + [False] * (after_only + neither)
    after = [True] * both + [False] * before_only + [True] * after_only + [False] * neither
    return before, after


def test_wilson_of_eight_in_ten_is_the_textbook_interval() -> None:
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


def test_wilson_at_the_ends_is_exact_and_never_leaves_the_unit_interval() -> None:
    # For no success the upper end is z^2 / (n + z^2).
    square = 1.959963984540054**2
    for n in (1, 2, 7, 1000):
        assert wilson(0, n) == (0.0, pytest.approx(square / (n + square)))
        assert wilson(n, n) == (pytest.approx(n / (n + square)), 1.0)


def test_wilson_ends_solve_the_score_equation() -> None:
    for successes, n in ((1, 3), (5, 9), (70, 100)):
        for end in wilson(successes, n):
            standard_error = math.sqrt(end * (1 - end) / n)
            assert abs(successes / n - end) / standard_error == pytest.approx(1.959963984540054)


def test_wilson_and_the_bootstrap_are_scipys() -> None:
    """SciPy's take a second to import and a thousand times as long for a share, so they judge here and work nowhere."""
    for successes, n in ((0, 5), (3, 7), (200, 200), (41, 97)):
        theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    before = np.random.default_rng(1).exponential(size=23)
    after = before + np.random.default_rng(2).normal(size=23)
    settings = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True}
    for statistic in (np.mean, np.median):
        low, high = stats.bootstrap((after,), statistic, rng=np.random.default_rng(5), **settings).confidence_interval
        own = bootstrap(after, lambda values, chosen=statistic: chosen(values, axis=-1), seed=5)
        assert own == pytest.approx((low, high), abs=1e-12)
    low, high = stats.bootstrap(
        (before, after),
        lambda one, other, axis: other.mean(axis=axis) - one.mean(axis=axis),
        paired=True,
        rng=np.random.default_rng(5),
        **settings,
    ).confidence_interval
    assert paired_bootstrap(before, after, seed=5) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wilson(successes, n)


def test_paired_change_agrees_with_newcombe_1998() -> None:
    # Newcombe 1998, Stat Med 17:2635, the table (36, 12, 2, 0) by method 10: +0.0569 to +0.3404.
    before, after = _answers(36, 2, 12, 0)
    assert paired_share_change(before, after) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_change_is_antisymmetric_and_uses_the_pairing() -> None:
    before, after = _answers(20, 1, 9, 20)
    low, high = paired_share_change(before, after)
    assert paired_share_change(after, before) == pytest.approx((-high, -low))
    shuffled = random.Random(0).sample(after, len(after))
    loose_low, loose_high = paired_share_change(before, shuffled)
    assert loose_high - loose_low > 1.2 * (high - low)


def test_paired_change_of_one_prompt_is_wide() -> None:
    low, high = paired_share_change([False], [True])
    assert -1 <= low < 0.3
    assert high == 1


def test_paired_change_refuses_different_lengths() -> None:
    with pytest.raises(ValueError, match="same prompts twice"):
        paired_share_change([True], [True, False])


def test_bootstrap_is_seeded_and_says_nothing_about_one_value() -> None:
    values = [index**1.5 for index in range(30)]
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    assert bootstrap([0.4]) is None


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    interval = bootstrap(values.tolist())
    assert interval is not None
    half = 1.96 * values.std() / 20
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_paired_bootstrap_of_a_constant_gain_has_no_width() -> None:
    before = [0.1, 0.4, 0.2]
    interval = paired_bootstrap(before, [value + 0.5 for value in before])
    assert interval == pytest.approx((0.5, 0.5))


def test_bootstrap_of_the_median_stays_inside_the_values() -> None:
    assert bootstrap([1.0, 2.0, 1000.0], median) == (1.0, 1000.0)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_bootstrap_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be summarised"):
        bootstrap(values)


def test_harmonic_mean_is_the_score_of_the_rome_paper() -> None:
    # Meng et al. 2022, table 4, GPT-2 XL: ES 100.0, PS 96.4, NS 75.4 give S 89.2; unedited 22.2, 24.7, 78.1 give 30.5.
    assert harmonic_mean([100.0, 96.4, 75.4]) == pytest.approx(89.2, abs=0.05)
    assert harmonic_mean([22.2, 24.7, 78.1]) == pytest.approx(30.5, abs=0.05)
    assert harmonic_mean([1.0, 0.0]) == 0.0
    with pytest.raises(ValueError, match="not defined"):
        harmonic_mean([])
