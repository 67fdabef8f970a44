"""Second moments from more and more tokens: distances by hand, and a run on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.ledger.payload import encode
from experiments.ledger.records import Entry
from experiments.studies import covariance
from experiments.studies.covariance import by_size, distance
from experiments.studies.parts.known import Drawn
from tests.experiments.studies.made import known_facts, options_of, requests_of, run_study
from tests.tiny import tiny_model


def entry(kind: str, spec: dict[str, Any], result: dict[str, Any]) -> Entry:
    return Entry(0, "", kind, 1, spec, "done", 1, "", encode(result), {}, 0.0)


def edited(tokens: int, after: float) -> Entry:
    pairs = {"rewrite": [[0.0, after]], "paraphrase": [[0.0, after / 2]], "neighborhood": []}
    return entry("rewrite", {"settings": {"moment_tokens": tokens}}, pairs)


def test_the_distance_is_relative() -> None:
    one, other = torch.eye(2).double(), torch.tensor([[4.0, 0.0], [0.0, 5.0]]).double()
    assert distance(one, other) == pytest.approx((3**2 + 4**2) ** 0.5 / 41**0.5)
    assert distance(other, other) == 0


def test_sizes_are_put_side_by_side() -> None:
    at = {"distance": 0.5, "between_streams": 0.6, "condition_number": None}
    cells = [
        entry("moment", {"tokens": 2000}, {**at, "distance": 0.0, "condition_number": 1e4}),
        entry("moment", {"tokens": 1000}, at),
        *(edited(1000, after) for after in (0.4, 0.5, 0.6)),
        edited(2000, 0.9),
    ]
    table = by_size(cells)
    assert table["tokens"].tolist() == [1000, 2000]
    assert table["rewrite_n"].tolist() == [3, 1]
    assert table["rewrite"].tolist() == pytest.approx([0.5, 0.9])
    assert table["paraphrase"].tolist() == pytest.approx([0.25, 0.45])
    # of resamples of three edits, one in 27 holds the lowest three times
    assert table["rewrite_low"].iloc[0] == pytest.approx(0.4)
    assert table["rewrite_high"].iloc[0] == pytest.approx(0.6)
    assert table["rewrite_low"].isna().tolist() == [False, True]
    assert table["neighborhood"].isna().all()
    with pytest.raises(ValueError, match="no second moment is finished"):
        by_size([])


def test_a_study_of_sizes_from_plan_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    requests = requests_of(known_facts(model, 1))
    monkeypatch.setattr(covariance, "draw_requests", lambda *_: Drawn(tuple(requests)))
    words = ("--facts", "1", "--tokens", "100", "400", "--layer", "2")
    plan, _, record = run_study(model, "covariance", tmp_path / "run", *words)
    assert [cell.kind for cell in plan.cells] == ["moment", "moment", "rewrite", "rewrite"]
    small, large = record["found"]["sizes"]
    assert large["distance"] == 0
    assert 0 < small["distance"] < 1
    assert small["between_streams"] > large["between_streams"] > 0
    assert (small["rewrite_n"], large["rewrite_n"]) == (1, 1)
    with pytest.raises(ValueError, match="ft uses no second moment"):
        covariance.plan(options_of("covariance", "--method", "ft"), model)
    with pytest.raises(ValueError, match="layer 9 is out of range"):
        covariance.plan(options_of("covariance", "--layer", "9"), model)
