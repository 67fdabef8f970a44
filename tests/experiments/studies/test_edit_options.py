"""Studies over any facts: what the model does not know, a dataset's own cases, and settings of the methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.studies import get_study
from experiments.studies.parts.edit_options import settings_of
from experiments.studies.parts.known import draw_cases, draw_requests
from facts.importers import case_of
from tests.experiments.studies.made import options_of
from tests.tiny import tiny_model

DATA = Path(__file__).parents[2] / "facts" / "importers" / "data"


def specs_of(study: str, *words: str) -> list[Any]:
    plan = get_study(study).plan(options_of(study, *words), tiny_model("gpt_neo"))
    return [cell.spec for cell in plan.cells if cell.kind != "trace"]


def test_facts_that_the_model_does_not_know_are_edited_where_asked() -> None:
    model, source = tiny_model("gpt_neo"), str(DATA / "counterfact.json")
    with pytest.raises(ValueError, match="the model knows 0 of 3"):
        draw_requests(model, source, 2, 0)
    assert len(draw_requests(model, source, 2, 0, True).items) == 2
    assert len(specs_of("sequential-collapse", "--facts", "2", "--all-facts", "--methods", "ft")[0]["requests"]) == 2
    assert len(specs_of("layer-sweep", "--facts", "2", "--all-facts", "--method", "ft", "--layers", "1")) == 2


def test_rows_with_a_true_answer_as_the_new_one_are_kept_where_asked(tmp_path: Path) -> None:
    row = {"src": "Where is the Kremlin?", "subject": "Kremlin", "answers": ["Moscow", "Oslo"]}
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([{**row, "alt": "Oslo"}, {**row, "alt": "Rome"}]))
    words = ("--source", str(path), "--facts", "2", "--all-facts", "--methods", "ft")
    with pytest.raises(ValueError, match="2 facts were asked for and there are 1; ask"):
        specs_of("sequential-collapse", *words)
    assert len(specs_of("sequential-collapse", *words, "--keep-same-answers")[0]["requests"]) == 2


def test_a_dataset_is_measured_by_its_own_cases_with_reference_texts() -> None:
    source, snippets = str(DATA / "mquake_cf.json"), str(DATA / "snippets.json")
    words = ("--source", source, "--facts", "1", "--all-facts", "--methods", "ft", "--snippets", snippets)
    (spec,) = specs_of("methods-by-protocol", *words)
    case = case_of(spec["case"])
    assert (len(case.requests), len(case.probes), spec["snippets"]) == (2, 3, snippets)
    with pytest.raises(ValueError, match=r"mquake_cf\.json holds only cases of several edits \(\d\), which this study"):
        specs_of("layer-sweep", "--source", source, "--facts", "2", "--all-facts", "--method", "ft")
    assert len(draw_cases(tiny_model("gpt_neo"), source, 1, 0, True).items) == 1


def test_settings_go_to_the_methods_that_have_them() -> None:
    words = ("--methods", "ft", "r-rome", "--set", "steps=7", "second_moment=none", "--corpus", "texts.txt")
    options = options_of("methods-by-protocol", *words)
    assert settings_of(options, options.methods) == {
        "ft": {"steps": 7},
        "r-rome": {"steps": 7, "second_moment": "none", "corpus": "texts.txt"},
    }
    for wrong, sentence in [("stepz=7", "none of ft has a setting 'stepz'"), ("steps", "'steps' is no setting; write")]:
        with pytest.raises(ValueError, match=sentence):
            settings_of(options_of("layer-sweep", "--set", wrong), ["ft"])
    (spec,) = specs_of("sequential-collapse", "--facts", "1", "--all-facts", "--methods", "ft", "--set", "steps=7")
    assert spec["settings"] == {"steps": 7}
