"""Averages and leaderboards of finished cells, with hand-worked numbers."""

from typing import Any

import numpy as np
import pytest

from app.batch.leaderboard import boards, score_records
from app.batch.results import _averaged, _traced
from experiments.ledger.payload import encode
from experiments.ledger.records import Entry


def entry(kind: str, spec: dict[str, Any], result: dict[str, Any]) -> Entry:
    return Entry(0, "a" * 64, kind, 1, spec, "done", 0, "", encode(result), {}, 1.0)


def edit(method: str, subject: str, after: float, *, layer: int | None = 1, before: float = 0.0) -> Entry:
    score = {
        "name": "reliability.greedy",
        "metric": "reliability",
        "before": before,
        "after": after,
        "n": 1,
        "unit": "share",
        "protocol": "engram",
    }
    request = {"fact": {"subject": subject}, "target_new": "Rome"}
    return entry("edit", {"method": method, "layer": layer, "request": request, "seed": 0}, {"scores": [score]})


def test_methods_are_ordered_by_what_they_reach_on_the_same_facts() -> None:
    cells = [
        edit("a", "x", 0.5),
        edit("a", "y", 0.0),
        edit("b", "x", 1.0, layer=None),
        edit("b", "y", 0.5, layer=None, before=0.5),
        edit("a", "z", 1.0),  # b has not edited z yet
    ]
    (board,) = boards(cells)
    assert board.missing == ("generalization", "locality", "portability")
    assert (board.protocol, board.n_facts) == ("engram", 2)
    assert list(board.rows) == [
        {"method": "b", "layer": "—", "reliability": 75.0},
        {"method": "a", "layer": "1", "reliability": 25.0},
    ]
    first = board.details[0]
    assert (first["before"], first["after"], first["change"], first["facts"]) == ("25 %", "75 %", "+50 pt", "2")
    assert len(score_records(cells)) == 5


def test_methods_go_by_their_titles() -> None:
    (board,) = boards([edit("ft-m", "x", 1.0)])
    assert [row["method"] for row in (*board.rows, *board.details)] == ["FT-M", "FT-M"]


def test_there_is_no_board_before_all_methods_share_a_fact() -> None:
    assert boards([edit("a", "x", 1.0), edit("b", "y", 1.0)]) == ()
    assert boards([]) == ()


def average(clean: list[float], effect: list[float], unknown: list[str]) -> Entry:
    """Facts whose effect is the same at every kind of token but the middle ones, which they do not have."""
    effects = np.repeat(np.array(effect, dtype=np.float32), 6 * 2).reshape(len(effect), 6, 2)
    effects[:, 1] = np.nan
    result = {
        "clean": np.array(clean, dtype=np.float32),
        "corrupted": np.zeros(len(clean), dtype=np.float32),
        "unknown": unknown,
        "effects/mlp_out": effects,
        "effects/resid_post": effects * 2,
    }
    return entry("average", {}, result)


def test_averages_over_the_facts_of_all_cells() -> None:
    parts = _traced([average([0.5, 1.0], [0.25, 0.5], []), average([0.75], [0.75], ["who"])])
    assert sum(part.unknown for part in parts) == 1
    states, mlps = _averaged(parts)
    assert (states.name, mlps.name) == ("resid_post", "mlp_out")
    assert mlps.mean[0] == pytest.approx([0.5, 0.5])
    assert states.mean[5] == pytest.approx([1.0, 1.0])
    assert np.isnan(mlps.mean[1]).all()
    assert mlps.n == (3, 0, 3, 3, 3, 3)
    # t of 2 degrees of freedom: 4.3027; standard deviation 0.25 over three facts.
    assert mlps.low[0, 0] == pytest.approx(0.5 - 4.3027 * 0.25 / np.sqrt(3), abs=1e-4)


def single(window: int, effect: float) -> Entry:
    spec = {"site": "mlp_out", "window": window, "severed": None}
    by_category = np.full((6, 2), effect, dtype=np.float32)
    return entry("trace", spec, {"known": True, "by_category": by_category, "total_effect": 0.5})


def test_single_traces_with_other_settings_are_maps_of_their_own() -> None:
    parts = _traced([single(1, 0.1), single(1, 0.3), single(3, 0.5), entry("trace", {"site": "mlp_out", "window": 3},
                                                                          {"known": False})])  # fmt: skip
    narrow, wide = _averaged(parts)
    assert (narrow.name, wide.name) == ("mlp_out, window 1", "mlp_out, window 3")
    assert narrow.mean[2] == pytest.approx([0.2, 0.2])
    assert wide.n[2] == 1
    assert sum(part.unknown for part in parts) == 1
