"""Edit success against tracing effect: R² by hand and by least squares, scores by hand, and a run on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.cells.rewrite import SCORES, kept, moved_towards, scores_of
from experiments.ledger.records import entries
from experiments.studies import layer_sweep
from experiments.studies.layer_sweep import arrays_of, by_layer, choices
from experiments.studies.parts.known import Drawn
from experiments.studies.parts.regression import regress
from tests.experiments.studies.made import known_facts, requests_of, run_study
from tests.tiny import tiny_model


def r_squared(columns: list[np.ndarray], y: np.ndarray) -> float:
    """Of least squares on these columns, the slow way."""
    x = np.stack(columns, axis=1)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum())


def test_two_facts_at_two_layers_by_hand() -> None:
    # layer means of y: 0.2 and 0.8; around them -0.1, 0.1 and -0.1, 0.1: S_yy = 0.04, T = 0.04 + 4 x 0.09 = 0.4
    success = np.array([[0.1, 0.7], [0.3, 0.9]])
    # layer means of x: 0.5 and 0.5; around them -0.5, 0.5 and 0, 0: S_xx = 0.5, S_xy = 0.1
    effect = np.array([[0.0, 0.5], [1.0, 0.5]])
    fit = regress(effect, success)
    assert (fit.n_facts, fit.n_layers) == (2, 2)
    assert fit.r2_layers == pytest.approx(0.9)
    assert fit.slope == pytest.approx(0.2)
    assert fit.added == pytest.approx(0.1**2 / 0.5 / 0.4)  # 0.05
    assert fit.r2_both == pytest.approx(0.95)
    # x around 0.5: -0.5, 0, 0.5, 0; y around 0.5: -0.4, 0.2, -0.2, 0.4; S_xy = 0.2 - 0.1 = 0.1
    assert fit.r2_tracing == pytest.approx(0.1**2 / 0.5 / 0.4)


def test_the_closed_form_is_least_squares() -> None:
    draw = np.random.default_rng(0)
    effect = draw.normal(size=(7, 5))
    success = draw.normal(size=(7, 5)) + np.arange(5) + 0.3 * effect
    fit = regress(effect, success)
    x, y = effect.ravel(), success.ravel()
    layers = [np.tile(np.arange(5) == layer, 7).astype(float) for layer in range(5)]
    assert fit.r2_layers == pytest.approx(r_squared(layers, y))
    assert fit.r2_tracing == pytest.approx(r_squared([np.ones(35), x], y))
    assert fit.r2_both == pytest.approx(r_squared([*layers, x], y))
    assert fit.added_ci is not None
    assert 0 <= fit.added_ci[0] <= fit.added <= fit.added_ci[1]
    assert fit.slope_ci is not None
    assert fit.slope_ci[0] <= fit.slope <= fit.slope_ci[1]


def test_tracing_that_does_not_vary_adds_nothing() -> None:
    fit = regress(np.full((3, 2), 0.5), np.array([[0.0, 1.0], [0.1, 0.9], [0.2, 0.8]]))
    assert fit.added == 0
    assert np.isnan(fit.slope)
    with pytest.raises(ValueError, match="at least two facts"):
        regress(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="not finite"):
        regress(np.zeros((2, 1)), np.array([[np.nan], [0.0]]))


def test_scores_by_hand() -> None:
    assert moved_towards((0.2, 0.6)) == pytest.approx(0.5)
    assert moved_towards((0.2, 0.1)) == pytest.approx(-0.125)
    assert moved_towards((0.2, None)) == pytest.approx(-0.25)  # a broken model says nothing
    assert moved_towards((1.0, 1.0)) == 0
    assert kept((0.9, 0.9)) == 1
    assert kept((0.9, 0.0)) == pytest.approx(0.0)  # 1 - 0.9 / (0.5 + 0.4)
    assert kept((0.5, 1.0)) == pytest.approx(0.0)
    assert kept((0.9, None)) == 0
    found = scores_of({"rewrite": [[0.0, 1.0]], "paraphrase": [[0.0, 0.5], [0.5, 0.75]], "neighborhood": []})
    assert found == {"rewrite": 1.0, "paraphrase": 0.5, "neighborhood": None}


def test_ways_of_choosing_a_layer() -> None:
    effect = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    success = np.array([[0.2, 0.8], [0.4, 0.6], [1.0, 0.3]])
    found = choices([3, 5], effect, success)
    assert found["traced"]["success"] == pytest.approx((0.2 + 0.4 + 0.3) / 3)
    # the others' means: (0.7, 0.45), (0.6, 0.55) and (0.3, 0.7), so layers 3, 3 and 5 are edited
    assert found["fixed"]["success"] == pytest.approx((0.2 + 0.4 + 0.3) / 3)
    assert found["best"]["success"] == pytest.approx((0.8 + 0.6 + 1.0) / 3)
    assert found["best_layer"] == 5
    table = by_layer([3, 5], effect, dict.fromkeys(SCORES, success))
    assert table["rewrite"].tolist() == pytest.approx([1.6 / 3, 1.7 / 3])
    assert table["rewrite_n"].tolist() == [3, 3]
    assert (table["rewrite_low"] < table["rewrite"]).all()


def test_a_sweep_from_plan_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    requests = requests_of(known_facts(model, 2))
    monkeypatch.setattr(layer_sweep, "draw_requests", lambda *_: Drawn(tuple(requests)))
    words = ("--facts", "2", "--layers", "0", "2", "--samples", "2", "--method", "ft")
    plan, ledger, record = run_study(model, "layer-sweep", tmp_path / "run", *words)
    assert [cell.kind for cell in plan.cells] == ["trace", "rewrite", "rewrite"] * 2
    effect, scores = arrays_of(entries(ledger, "layer-sweep"), [0, 2])
    assert effect.shape == scores["rewrite"].shape == (2, 2)
    assert np.isfinite(effect).all()
    assert record["found"]["n"] == 2
    assert record["found"]["regression"]["rewrite"]["r2_both"] == pytest.approx(
        regress(effect, scores["rewrite"]).r2_both
    )
    with pytest.raises(ValueError, match="has layers 0 to 3"):
        run_study(model, "layer-sweep", tmp_path / "other", "--facts", "2", "--layers", "4")
