"""Files written before the packages were sorted into folders still open, with the same content and the same numbers.

`tests/editing/data` holds one saved edit for each kind of operation, six of them in a ledger with two branches, made on
the tiny GPT-2 of `tests/tiny.py` and, for SERAC, on the bundled model; `expected.json` holds what they gave then.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from editing import Edit, apply_edits
from editing.files import load_edit
from editing.ledger import Ledger
from facts import EditRequest, Fact, Probe
from facts.importers import read_cases
from facts.records import read_request, request_record
from models import LanguageModel, load_model
from tests.tiny import tiny_model

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
REQUEST = EditRequest(
    Fact("Space Needle", "The {} is located in the city of", "Seattle", "city"),
    "Paris",
    (
        Probe(
            "one_hop",
            "The tower's country is",
            "France",
            (("Paris is in the country of", "France"),),
            ("the French Republic",),
        ),
        Probe(
            "neighborhood",
            "The Pike Place Market is located in the city of",
            "Seattle",
            source="locality",
            group="first",
            group_rule="all",
        ),
    ),
    ("The Space Needle", "A tower"),
)
_ABSOLUTE = {"rate_unit": "absolute"}
SETTINGS_SINCE = {"r-rome": {"compat": "r-rome"}, "ft": _ABSOLUTE, "lora": _ABSOLUTE, "grace": _ABSOLUTE}
"""Method -> settings it has got since, with what they were."""
ON_TINY = ("r-rome", "ft", "lora", "grace", "wise", "ice")


def log_probabilities(model: LanguageModel) -> list[float]:
    """Of the first eight tokens of the vocabulary after the edited prompt."""
    ids = torch.tensor([model.encode(REQUEST.fact.prompt)])
    return model.logits(ids)[0, -1].log_softmax(-1)[:8].tolist()


def check(edit: Edit, model: LanguageModel) -> None:
    """The edit against what it was when it was written."""
    expected = EXPECTED[edit.method]
    assert edit.requests == (REQUEST,)
    settings = {**EXPECTED[edit.method]["config"], **SETTINGS_SINCE.get(edit.method, {})}
    assert json.loads(json.dumps(dataclasses.asdict(edit.config))) == settings
    assert (edit.digest, edit.content) == (expected["digest"], expected["content"])
    assert [type(op).__name__ for op in edit.ops] == expected["operations"]
    assert {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics} == expected["diagnostics"]
    assert list(edit.loss_curve) == expected["losses"]
    assert {name: list(keys.shape) for name, keys in edit.keys.items()} == expected["keys"]
    assert log_probabilities(apply_edits(model, [edit])) == pytest.approx(expected["log_probabilities"], abs=1e-5)


@pytest.mark.parametrize("method", ON_TINY)
def test_a_saved_edit_opens_and_gives_the_same_numbers(method: str) -> None:
    path = DATA / "ledger" / "edits" / f"{EXPECTED[method]['digest']}.safetensors"
    check(load_edit(path), tiny_model("gpt2"))


def test_a_saved_edit_that_routes_prompts_opens_and_gives_the_same_numbers() -> None:
    check(load_edit(DATA / "serac.safetensors"), load_model("reference"))


def test_a_ledger_opens_with_its_branches(tmp_path: Path) -> None:
    shutil.copytree(DATA / "ledger", tmp_path / "ledger")
    ledger = Ledger(tiny_model("gpt2"), tmp_path / "ledger")
    methods = {name: [edit.method for edit in ledger.edits(name)] for name in ledger.branches}
    assert methods == {"main": ["r-rome", "ft", "lora", "grace"], "words": ["r-rome", "ft", "wise", "ice"]}
    assert ledger.current == "words"
    for name, expected in EXPECTED["branches"].items():
        assert log_probabilities(ledger.view(name)) == pytest.approx(expected, abs=1e-5)


def test_a_request_reads_the_same_from_a_cell_and_from_a_dataset(tmp_path: Path) -> None:
    written = json.loads((DATA / "request.json").read_text(encoding="utf-8"))
    assert read_request(written["of_a_cell"]) == REQUEST
    assert json.loads(json.dumps(request_record(REQUEST))) == written["of_a_cell"]
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(written["of_a_dataset"]) + "\n", encoding="utf-8")
    (case,) = read_cases(path)
    assert case.requests == (REQUEST,)
