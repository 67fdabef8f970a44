"""p-values against published tables, corrections against hand-worked ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tracing.made import made_result
from tracing.config import TraceConfig
from tracing.statistics import adjust, interval, significant, t_quantile, t_test


@pytest.mark.parametrize(
    ("degrees", "t", "p"), [(1, 12.706, 0.05), (9, 2.262, 0.05), (9, 3.25, 0.01), (30, 2.75, 0.01)]
)
def test_p_values_are_those_of_the_tables(degrees: int, t: float, p: float) -> None:
    n = degrees + 1
    rough = np.arange(n, dtype=float)
    unit = (rough - rough.mean()) / rough.std(ddof=1)
    values = unit + t / np.sqrt(n)  # a sample whose t statistic is t
    assert t_test(values) == pytest.approx(p, abs=2e-4 * p / 0.01)
    assert t_test(-values) == pytest.approx(t_test(values))


def test_a_p_value_below_alpha_is_an_interval_without_zero() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, (12, 50))
    values[3, :25] = np.nan  # another number of degrees there
    low, high = interval(values)
    np.testing.assert_array_equal(t_test(values) < 0.05, (low > 0) | (high < 0))
    assert 5 < (t_test(values) < 0.05).sum() < 45


def test_cells_without_spread_or_values() -> None:
    values = np.array([[0.0, 0.2, 1.0, np.nan], [0.0, 0.2, np.nan, np.nan], [0.0, 0.2, np.nan, np.nan]])
    np.testing.assert_array_equal(t_test(values), [1.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(t_test(values.T, axis=1), t_test(values))
    assert t_test(np.zeros((5, 3, 2))).shape == (3, 2)


def test_corrections_worked_by_hand() -> None:
    p = np.array([[0.01, 0.04], [0.03, np.nan]])
    np.testing.assert_allclose(adjust(p), [[0.03, 0.06], [0.06, np.nan]])
    np.testing.assert_allclose(adjust(p, "benjamini-hochberg"), [[0.03, 0.04], [0.04, np.nan]])
    np.testing.assert_allclose(adjust(p, "none"), p)
    np.testing.assert_allclose(adjust([0.9, 0.8]), [1.0, 1.0])
    with pytest.raises(ValueError, match="unknown correction 'bonferroni'"):
        adjust(p, "bonferroni")  # type: ignore[arg-type]


def test_a_mask_marks_what_survives_its_correction() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.0, 1.0, (10, 40))
    values[:, :5] += 5.0
    plain = significant(values, correction="none")
    holm, shared = significant(values), significant(values, correction="benjamini-hochberg")
    assert holm[:5].all()
    assert not holm[5:].any()
    assert (shared >= holm).all()
    assert plain.sum() >= shared.sum()
    assert not significant(np.full((1, 3), 2.0)).any()  # one sample tells nothing


def test_quantiles_of_many_degrees() -> None:
    assert t_quantile(999) == pytest.approx(1.9623, abs=1e-4)
    low, high = interval(np.tile([[0.0], [1.0]], (500, 3)))
    assert (high - low)[0] == pytest.approx(2 * 1.9623 * np.sqrt(0.25 * 1000 / 999 / 1000), rel=1e-3)


def test_a_trace_marks_its_cells() -> None:
    restored = np.full((6, 4, 3), 0.2, dtype=np.float32)
    restored += np.linspace(-0.1, 0.1, 6, dtype=np.float32)[:, None, None]  # the corrupted run's own spread
    corrupted = restored[:, 0, 0].copy()
    restored[:, 2, 1] += [0.30, 0.31, 0.29, 0.30, 0.32, 0.28]
    restored[:, 3, 2] += [0.30, -0.31, 0.29, -0.30, 0.32, -0.28]
    restored[:, 3, 0] = np.nan
    result = made_result(config=TraceConfig(samples=6), restored=restored, corrupted=corrupted)
    expected = np.zeros((4, 3), dtype=bool)
    expected[2, 1] = True
    np.testing.assert_array_equal(result.significant(), expected)
