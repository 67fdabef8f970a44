"""What a map is said to show: hand-worked intervals, and no layer suggested that the samples do not support."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tests.tracing.made import heads_result, made_result
from tests.tracing.test_plots import made_average
from tracing.cli.tables import average_table, trace_table
from tracing.config import TraceConfig
from tracing.measures import Readings
from tracing.suggestion import best_of, early_site
from tracing.types import TraceResult

BIG = [0.4, 0.5, 0.6]
"""Mean .5, sd .1: half widths t(2) * .1 / sqrt(3) of .2484 for one cell (t = 4.3027) and .4416 for three (t = 7.6489,
which leaves .05 / 3 outside: t = c * sqrt(2 / (1 - c^2)) with c = 1 - .05 / 3)."""


def traced(cells: dict[tuple[int, int], ArrayLike], layers: int = 3, **changes: Any) -> TraceResult:
    """Three samples of "The Space Needle is", clean .9, corrupted .1, with these effects at (position, layer)."""
    restored = np.full((3, 4, layers), 0.1, dtype=np.float32)
    for (pos, layer), effects in cells.items():
        restored[:, pos, layer] += np.asarray(effects, dtype=np.float32)
    values: dict[str, Any] = {
        "config": TraceConfig(site="mlp_out", samples=3),
        "corrupted": np.full(3, 0.1, dtype=np.float32),
        "restored": restored,
    }
    return made_result(**values | changes)


def test_a_layer_whose_effect_stands_out_is_suggested_with_its_numbers() -> None:
    found = traced({(2, 1): BIG}).suggestion()
    assert found.layer == 1
    assert found.cell is not None
    assert (found.cell.token, found.cell.position, found.cell.compared) == (" Needle", 2, 3)
    assert (found.cell.effect, found.cell.low, found.cell.high) == pytest.approx((0.5, 0.0584, 0.9416), abs=1e-3)
    assert "0.500 (95 % CI 0.058 to 0.942, corrected for 3 cells), n = 3" in found.reason


def test_the_interval_holds_for_the_largest_of_several_cells() -> None:
    """Effects .3, .5, .7: alone the interval is .5 -+ .4968, above 0; as the largest of three it is .5 -+ .8832."""
    result = traced({(2, 1): [0.3, 0.5, 0.7]})
    assert result.ci()[0][2, 1] == pytest.approx(0.0032, abs=1e-3)
    found = result.suggestion()
    assert found.layer is None
    assert found.cell is not None
    assert (found.cell.low, found.cell.high) == pytest.approx((-0.3832, 1.3832), abs=1e-3)
    assert "no layer stands out" in found.reason
    assert "Take more samples" in found.reason


def test_the_best_of_several_tokens_is_held_to_all_of_their_cells() -> None:
    """An effect of .5 -+ .4416 stands out of the three cells of one token, not of the six of two (-+ .6261)."""
    effects = np.array([BIG, [0, 0, 0], [0, 0, 0]]).T
    assert best_of(effects, 0.8).stands_out
    assert not best_of(effects, 0.8, compared=6).stands_out


def test_a_flat_row_suggests_nothing_though_every_cell_differs_from_zero() -> None:
    row = {(2, layer): np.array(BIG) + bump for layer, bump in enumerate(([0, 0.01, 0], [0.01, 0, 0.01], [0, 0, 0.01]))}
    found = traced(row).suggestion()
    assert found.layer is None
    assert found.cell is not None
    assert found.cell.low > 0
    assert "on average over the layers" in found.reason
    assert best_of(np.array([BIG, BIG, BIG]).T, 0.8).stands_out is False


def test_an_effect_of_no_importance_suggests_nothing_however_certain_it_is() -> None:
    """Of a total effect of .8 a twentieth is .04: .039 is too little, .041 is enough."""
    little = traced({(2, 1): [0.038, 0.039, 0.040]}).suggestion()
    assert little.layer is None
    assert "0.039 at layer 1" in little.reason
    assert "5 % of the total effect and 0.013 on average over the layers" in little.reason
    assert traced({(2, 1): [0.040, 0.041, 0.042]}).suggestion().layer == 1


def test_a_token_of_the_subject_that_carries_more_is_named() -> None:
    """The kind of SmolLM2 on the Eiffel Tower: nothing at the last subject token, much at another one."""
    result = traced({(1, 0): BIG, (2, 1): [0.01, -0.01, 0.02]})
    found = result.suggestion()
    assert found.layer is None
    assert found.elsewhere is not None
    assert (found.elsewhere.token, found.elsewhere.layer) == (" Space", 0)
    assert "Token ␣Space carries more, 0.500 at layer 0: edit there" in found.reason
    assert result.suggestion(1).layer == 0
    largest = result.largest()
    assert (largest.token, largest.layer, largest.compared) == (" Space", 0, 6)


def test_silent_layers_are_left_out_alike() -> None:
    """The largest effect is where no edit can act: the suggestion and the early site both pass it over, and say so."""
    result = traced({(2, 0): [0.7, 0.7, 0.71], (2, 1): BIG})
    silent = {2: {0}}
    assert result.suggestion().layer == 0
    found = result.suggestion(None, silent)
    assert found.layer == 1
    assert "largest, of the layers whose MLP is not silent, at layer 1" in found.reason
    assert "at layer 1 of 3" in early_site(result, silent)


def test_the_largest_leaves_out_the_last_token() -> None:
    result = traced({(2, 1): BIG, (3, 2): [0.8, 0.8, 0.8]})
    assert (result.largest().position, result.largest().layer) == (2, 1)
    restored = result.restored.copy()
    restored[:, :3] = np.nan
    only = replace(result, restored=restored)
    assert (only.largest().position, only.largest().layer) == (3, 2)
    assert only.last_subject() is None
    assert only.suggestion().reason == "The last subject token ␣Needle was not traced, so no layer is suggested."
    before = np.full_like(restored, np.nan)
    before[:, 0] = 0.1  # only what stands before the subject
    assert replace(result, restored=before).largest().position == 0


@pytest.mark.parametrize(
    ("corrupted", "words"),
    [
        ([0.9, 0.95, 0.99], "nothing away: the total effect is -0.047 (95 % CI -0.159 to 0.065)"),
        ([0.9, 0.9, 0.9], "nothing away: the total effect is 0.000 (95 % CI 0.000 to 0.000)"),
        ([0.2, 0.9, 0.95], "nothing away that differs from 0: the total effect is 0.217 (95 % CI -0.825 to 1.258)"),
    ],
)
def test_where_the_corruption_took_nothing_away_nothing_is_suggested(corrupted: list[float], words: str) -> None:
    """The restored runs give back .05 in every sample.  By hand, first: -.0467 -+ 4.3027 * .0451 / sqrt(3)."""
    low = np.array(corrupted, dtype=np.float32)
    restored = np.broadcast_to(low[:, None, None], (3, 4, 3)).copy()
    restored[:, 2, 1] += np.array([0.05, 0.051, 0.052], dtype=np.float32)
    found = traced({}, corrupted=low, restored=restored).suggestion()
    assert found.layer is None
    assert words in found.reason
    assert "more noise" in found.reason
    assert early_site(traced({}, corrupted=low, restored=restored)) == ""


def test_one_run_suggests_nothing() -> None:
    one = {"corrupted": np.array([0.1], dtype=np.float32), "restored": np.full((1, 4, 3), 0.2, dtype=np.float32)}
    found = made_result(config=TraceConfig(site="mlp_out", samples=1), **one).suggestion()
    assert (found.layer, found.reason) == (
        None, "One run has no interval, so no layer is suggested; trace with 10 samples."
    )  # fmt: skip
    mean = made_result(config=TraceConfig(site="mlp_out", samples=5, corruption="mean"), **one)
    assert "trace with the corruption gaussian and 10 samples" in mean.suggestion().reason
    assert mean.to_dict()["largest"]["low"] is None


def test_states_that_restore_everything_by_themselves_suggest_nothing() -> None:
    config = TraceConfig(samples=3)
    one_token = traced({(2, 0): BIG}, config=config, subject_span=(2, 3), subject="Needle")
    assert "The subject is one token" in one_token.suggestion().reason
    at_the_end = traced({(3, 2): BIG}, config=config, subject_span=(1, 4))
    assert "At the last token a late state restores the answer" in at_the_end.suggestion().reason
    assert replace(one_token, config=TraceConfig(site="mlp_out", samples=3)).suggestion().layer == 0


def test_layers_that_cannot_be_edited_are_passed_over() -> None:
    result = traced({(2, 1): BIG, (2, 2): [0.2, 0.25, 0.3]})
    assert result.suggestion().layer == 1
    passed = result.suggestion(without={2: {1}})
    assert passed.layer == 2
    assert passed.cell is not None
    assert passed.cell.compared == 2
    assert "silent at the last subject token" in result.suggestion(without={2: {0, 1, 2}}).reason


def test_a_suggestion_is_of_the_probability_whatever_is_shown() -> None:
    readings = Readings(0.0, np.full(3, 2.0, dtype=np.float32), np.full((3, 4, 3), 2.0, dtype=np.float32))
    readings.restored[:, 2, 0] = [0.5, 0.6, 0.7]
    shown = traced({(2, 1): BIG}, others={"kl": readings}).by("kl")
    assert shown.suggestion().layer == 1
    assert (shown.largest().layer, shown.largest().effect) == (0, pytest.approx(-1.4))  # a lower divergence is better


def test_heads_are_named() -> None:
    largest = heads_result().largest()
    assert "head" in largest.to_dict()
    assert "head" not in traced({}).largest().to_dict()


def test_what_the_map_shows_of_the_early_site() -> None:
    clear = [0.45, 0.5, 0.55]
    early, late = traced({(2, 1): clear}, layers=4), traced({(2, 3): clear}, layers=4)
    assert early_site(early).startswith(
        "Early site: restoring the MLP output at the last subject token matters most at"
    )
    assert early_site(late).startswith(
        "No early site: restoring the MLP output at the last subject token matters most late"
    )
    none = early_site(traced({}, layers=4))
    assert none.startswith("No early site: restoring the MLP output at the last subject token has no layer that stands")
    assert "2202.05262" in none
    assert "2509.08778" in none
    assert early_site(traced({(2, 1): [0.1, 0.5, 0.9]}, layers=4)) == "", "three samples do not say that there is none"
    elsewhere = early_site(traced({(1, 1): clear}, layers=4))
    assert elsewhere == (
        "No early site at the last subject token: restoring the MLP output matters at ␣Space instead, at layer 1 of 4."
    )
    for other in ("attn_out", "resid_post"):
        shown = early_site(replace(early, config=TraceConfig(site=other, samples=3)))  # type: ignore[arg-type]
        assert bool(shown) == (other == "resid_post")


def test_averages_say_whether_they_show_an_early_site() -> None:
    """Over three facts: .45, .5, .55 at layer 0; half width for the largest of four layers 8.86 * .05 / sqrt(3)."""
    grid = np.zeros((3, 6, 4), dtype=np.float32)
    grid[:, 2, 0] = [0.45, 0.5, 0.55]
    average = replace(
        made_average(),
        configs=(TraceConfig(), TraceConfig(site="mlp_out"), TraceConfig(site="attn_out")),
        effects={"resid_post": grid, "mlp_out": np.full_like(grid, 0.025), "attn_out": grid},
    )
    states, mlp, attention = average_table(average).split("by token and layer")[1:]
    assert (
        "Largest at the last subject token: 0.500 at layer 0 (95 % CI 0.244 to 0.756, corrected for 4 layers" in states
    )
    assert "Early site: restoring the residual stream at the last subject token matters most at layer 0 of 4" in states
    assert "0.025 at layer 0" in mlp
    assert "No early site: restoring the MLP output at the last subject token has no layer that stands out" in mlp
    assert "early" not in attention.lower()


def test_the_table_says_the_same() -> None:
    result = traced({(1, 0): BIG}, own_answer=True)
    shown = trace_table(result)
    assert "answer     'Seattle', the model's own; the true answer was not given" in shown
    assert f"Largest effect before the last token: {result.largest()}" in shown
    assert f"Largest at the last subject token: {result.last_subject()}" in shown
    assert f"Suggested layer: none. {result.suggestion().reason}" in shown
    assert early_site(result) in shown
    assert "Suggested layer: 1. At the last" in trace_table(traced({(2, 1): BIG}))
