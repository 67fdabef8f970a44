"""Cells about a dataset's whole case: all its edits and questions, reference texts, and how plans name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.cells.edit import check_ground
from experiments.kinds import Context, get_kind
from experiments.plan_files import plan_of
from facts.importers import case_of, read_cases, record_of
from tests.tiny import tiny_model

DATA = Path(__file__).parents[1] / "facts" / "importers" / "data"
HEAD = {"name": "x", "model": "", "dtype": "float32", "device": "cpu"}
FT = {"method": "ft", "layer": 1, "settings": {"steps": 2}}


def plan_cells(**table: Any) -> list[Any]:
    return [cell.spec for cell in plan_of({**HEAD, "grid": [table]}, None).cells]


def test_a_case_is_the_same_after_its_record() -> None:
    for name in ("mquake_cf.json", "counterfact.json", "rippleedits.json"):
        for case in read_cases(DATA / name):
            assert case_of(record_of(case)) == case


def test_a_case_of_several_edits_is_one_cell_with_its_questions() -> None:
    kind = get_kind("protocols")
    (spec,) = plan_cells(
        kind="protocols", facts={"file": str(DATA / "mquake_cf.json"), "first": 1}, protocols=["wild"], **FT
    )
    whole = kind.complete(spec)
    assert kind.complete(whole) == whole
    assert kind.group(whole) == kind.group({**whole, "method": "memit"})
    values = kind.run(tiny_model("gpt_neo"), whole, Context())["scores"]["wild"]["values"]
    assert values["reliability"]["n"] == 2, "both edits are made and asked for"
    assert values["portability"]["n"] == 1, "its three questions are one test"


def test_such_cases_are_refused_where_only_one_edit_is_made() -> None:
    for kind in ("edit", "rewrite"):
        with pytest.raises(ValueError, match=r'has 2 edits and 3 questions about .* write kind = "protocols"'):
            plan_cells(kind=kind, facts={"file": str(DATA / "mquake_cf.json")}, **FT)
    with pytest.raises(ValueError, match=r"known_1000\.json holds no edit; give a file whose rows have a new answer"):
        plan_cells(kind="edit", facts={"file": str(DATA / "known_1000.json")}, **FT)


def test_protocols_are_no_axis_of_a_grid_and_methods_are() -> None:
    shared = {"facts": {"atlas": 2}, "layer": 1, "protocols": ["rome", "wild"]}
    specs = plan_cells(kind="protocols", method=["ft", "ft-m"], **shared)
    assert len(specs) == 4
    assert all(spec["protocols"] == ["rome", "wild"] for spec in specs)
    assert {"case", "request"} & specs[0].keys() == {"request"}
    kind = get_kind("protocols")
    for wrong in ({**specs[0], "case": {}}, {name: specs[0][name] for name in ("method", "layer")}):
        with pytest.raises(ValueError, match="either a request or a case; give one of them"):
            kind.complete(wrong)


def test_reference_texts_are_read_by_the_ids_of_the_dataset(tmp_path: Path) -> None:
    case = next(iter(read_cases(DATA / "counterfact.json")))
    ids = case.extra["requested_rewrite"]["target_new"]["id"]
    sample = {"name": case.facts[0].subject, "text": "Sweden is a country in the north."}
    path = tmp_path / "attribute_snippets.json"
    path.write_text(json.dumps([{"relation_id": case.facts[0].relation, "target_id": ids, "samples": [sample]}]))
    kind = get_kind("protocols")
    spec = kind.complete({"case": record_of(case), "protocols": ["rome"], "snippets": str(path), **FT})
    values = kind.run(tiny_model("gpt_neo"), spec, Context())["scores"]["rome"]["values"]
    assert (values["RS"]["n"], values["essence"]["n"]) == (1, 1)
    without = kind.complete({"case": record_of(case), "protocols": ["rome"], **FT})
    assert "snippets" not in {*without, *without["rests_on"]}
    path.write_text("[]")
    with pytest.raises(ValueError, match="the snippets of ft has changed since the run was planned"):
        check_ground(spec)
