"""Edits of a run in the shape of EasyEdit's results; and no folder of this machine in what leaves a ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.cells.protocols import scores_of
from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.places import paths_in, portable, shown_name, without
from experiments.plan import Cell, Plan
from experiments.runner import execute
from experiments.studies import record
from experiments.workers.inline import Inline
from facts.records import request_record
from tests.experiments.made import draws, ledger_of
from tests.experiments.studies.made import known_facts, requests_of
from tests.tiny import tiny_model

PLACE = "/home/somebody/models/small"


def protocols(request: Any, **more: Any) -> Cell:
    """An edit under two protocols."""
    spec = {"request": request, "method": "ft", "protocols": ["easyedit", "wild"], "settings": {"steps": 2}}
    return Cell("protocols", spec | more)


def test_a_run_is_exported_as_easyedit_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("gpt_neo").view()
    model.name = PLACE
    first, second = (request_record(one) for one in requests_of(known_facts(model, 2)))
    cells = [protocols(first, layer=1), protocols(second, layer=1), protocols(first, layer=2)]
    plan = Plan("edits", PLACE, tuple(cells), about={"options": {"source": f"{PLACE}.json"}})
    with Ledger(tmp_path) as ledger:
        ledger.add(plan, identity_of(model))
        assert execute(ledger, "edits", Inline(model)).done == 3
        found = list(entries(ledger, "edits"))
        about = record(ledger, "edits")
    assert (about["model"], about["identity"]["model"], about["about"]) == (
        "small",
        "small",
        {"options": {"source": "small.json"}},
    )
    assert main(["export", "--out", str(tmp_path), "--format", "easyedit"]) == 0
    folder = tmp_path / "edits" / "easyedit"
    written = [Path(name) for name in capsys.readouterr().out.split()]
    assert written == [folder / "ft-layer1.json", folder / "ft-layer2.json"]
    results = json.loads(written[0].read_text(encoding="utf-8"))
    assert [one["requested_rewrite"]["prompt"] for one in results] == [
        request["fact"]["template"].format(request["fact"]["subject"]) for request in (first, second)
    ]
    for one, entry in zip(results, found, strict=False):
        assert list(one) == ["case_id", "requested_rewrite", "time", "pre", "post"]
        assert one["time"] == entry.notes["edit_seconds"] > 0
        assert one["requested_rewrite"].keys() >= {"prompt", "target_new", "ground_truth", "subject", "rephrase_prompt"}
        values = scores_of(entry.result or {})["easyedit"].values
        for when, side in (("pre", "before"), ("post", "after")):
            assert one[when]["rewrite_acc"] == [getattr(values["rewrite_acc"], side)]
            assert one[when]["rephrase_acc"] == [getattr(values["rephrase_acc"], side)]
        assert one["post"]["locality"]["neighborhood_acc"] == [values["locality.neighborhood_acc"].after]
        assert one["post"]["metric_meta"] | {"seed": 0, "model": "small"} == one["post"]["metric_meta"]
    assert main(["export", "--out", str(tmp_path)]) == 0
    exported = [Path(name) for name in capsys.readouterr().out.split()]
    for path in (*written, *exported):
        assert PLACE.encode() not in path.read_bytes(), path
    assert b"small" in (tmp_path / "edits" / "cells.csv").read_bytes()


def test_other_runs_are_refused_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ledger_of(tmp_path, draws(1)) as ledger:
        execute(ledger, "draws", Inline())
    assert main(["export", "--out", str(tmp_path), "--format", "easyedit"]) == 2
    assert "no finished edit measured under the protocol 'easyedit'" in capsys.readouterr().err


def test_only_what_names_a_place_is_shortened() -> None:
    spec = {"fact": {"subject": "/r/cats"}, "settings": {"corpus": "/data/some text.txt"}, "model": "./near"}
    assert portable(spec) == {
        "fact": {"subject": "/r/cats"},
        "settings": {"corpus": "some text.txt"},
        "model": "./near",
    }
    assert portable({"scores.wild.model": PLACE, "list": [{"model": PLACE}]}) == {
        "scores.wild.model": "small",
        "list": [{"model": "small"}],
    }
    assert paths_in([spec, {"model": PLACE}]) == {"/data/some text.txt", PLACE}
    assert without(f"there is no {PLACE!r}", {PLACE}) == "there is no 'small'"
    assert [shown_name(name) for name in ("reference", "EleutherAI/pythia-70m", "~/models/x")] == [
        "reference",
        "EleutherAI/pythia-70m",
        "~/models/x",
    ]
