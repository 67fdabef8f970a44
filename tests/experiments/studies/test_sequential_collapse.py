"""Edits in a row: when a model is called broken, shares by hand, and a run on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.ledger.payload import encode
from experiments.ledger.records import Entry, entries
from experiments.studies import sequential_collapse
from experiments.studies.parts.known import Drawn
from experiments.studies.sequential_collapse import broken_at, curves, outcomes
from metrics.statistics import wilson
from tests.experiments.studies.made import known_facts, requests_of, run_study
from tests.tiny import tiny_model


def point(n_edits: int, right: int, n: int, perplexity: float | None) -> dict[str, Any]:
    counts = [right, n]
    return {
        "n_edits": n_edits,
        "perplexity": perplexity,
        "reliability": counts,
        "generalization": [0, 0],
        "locality": counts,
    }


def sequence(method: str, points: list[dict[str, Any]], immediate: list[int | None]) -> Entry:
    made = [None if right is None else {"reliability": [right, 1]} for right in immediate]
    failed = [[index, "why"] for index, right in enumerate(immediate) if right is None]
    payload = encode({"points": points, "immediate": made, "failed": failed})
    return Entry(0, "", "sequence", 1, {"method": method}, "done", 1, "", payload, {}, 0.0)


def test_a_model_is_broken_where_text_is_twice_as_surprising() -> None:
    assert broken_at([point(0, 0, 1, 10.0), point(5, 1, 1, 19.9), point(10, 1, 1, 20.1)]) == 10
    assert broken_at([point(0, 0, 1, 10.0), point(5, 1, 1, None), point(10, 1, 1, 11.0)]) == 5
    assert broken_at([point(0, 0, 1, 10.0), point(5, 1, 1, 20.0)]) is None


def test_orders_are_pooled_prompt_by_prompt() -> None:
    runs = [
        sequence("rome", [point(0, 0, 4, 10.0), point(4, 3, 3, 50.0)], [1, 1, None, 1]),
        sequence("rome", [point(0, 0, 4, 10.0), point(4, 1, 4, 30.0)], [1, 1, 0, 1]),
    ]
    table = curves(runs)
    last = table[table["n_edits"] == 4].iloc[0]
    assert (last["orders"], last["reliability_n"], last["perplexity"]) == (2, 7, 40.0)
    assert last["reliability"] == pytest.approx(4 / 7)
    assert (last["reliability_low"], last["reliability_high"]) == wilson(2, 3.5)  # asking again is no new evidence
    (end,) = outcomes(runs)
    assert (end["edits"], end["failed"]) == (8, 1)
    assert end["held_when_made"] == pytest.approx(6 / 7)
    assert end["held_at_the_end"] == [4, 7]
    assert end["broken_at"] == [4, 4]
    with pytest.raises(ValueError, match="no sequence is finished"):
        curves([])


def test_a_sequence_from_plan_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    requests = requests_of(known_facts(model, 3))
    monkeypatch.setattr(sequential_collapse, "draw_requests", lambda *_: Drawn(tuple(requests)))
    words = ("--facts", "3", "--methods", "ft", "--every", "2", "--orders", "2")
    plan, ledger, record = run_study(model, "sequential-collapse", tmp_path, *words)
    first, second = (cell.spec["requests"] for cell in plan.cells)
    assert first != second
    assert sorted(one["fact"]["template"] for one in first) == sorted(one["fact"]["template"] for one in second)
    for entry in entries(ledger, "sequential-collapse"):
        assert entry.result is not None
        assert [one["n_edits"] for one in entry.result["points"]] == [0, 2, 3]
        assert entry.result["points"][-1]["reliability"][1] == 3
        assert len(entry.result["immediate"]) == 3
    (end,) = record["found"]["methods"]
    assert (end["method"], end["edits"], end["failed"]) == ("ft", 6, 0)
