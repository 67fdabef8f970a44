"""The table of all protocols, on a tiny model: journal, resumption, and what stands in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import protocols
from benchmarks.protocols import Journal, details, frame, references_of, requests_of, run, table
from editing import METHODS
from editing.configs import make_config
from facts import EditRequest, Fact, Probe
from facts.atlas import load_atlas
from metrics.protocols import PROTOCOLS, Material
from metrics.types import Settings
from models import LanguageModel
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
MATERIAL = Material(Settings(max_new_tokens=2, distractors=()))
REQUESTS = [
    EditRequest(Fact("Toyota", "{} is in", "Japan"), "Oslo", (Probe("neighborhood", "The Colosseum is in", "Rome"),)),
    EditRequest(Fact("Space Needle", "The {} is in", "Seattle"), "Rome", generation_prompts=("The Space Needle",)),
]


class Quick:
    """Stands in for R-ROME: a few steps of fine-tuning, counted."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def compute(self, model: LanguageModel, requests: Sequence[EditRequest], config: object) -> object:
        self.made.append(requests[0].fact.subject)
        method = METHODS["ft-m"]
        settings = {"layer": 2, "steps": 25, "learning_rate": 0.05, "rate_unit": "absolute"}
        return method.compute(model, requests, make_config(method.config_type, settings))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    method = Quick()
    monkeypatch.setattr(protocols, "METHODS", {protocols.METHOD: method})
    return method


def test_a_run_goes_on_where_it_was_stopped(quick: Quick, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "edits.jsonl", {"layer": 1})
    run(MODEL, REQUESTS[:1], 1, MATERIAL, journal)
    with journal.path.open("a") as file:
        file.write('{"prompt": "The Space Nee')  # stopped while a line was written
    seen: list[int] = []
    summaries = run(MODEL, REQUESTS, 1, MATERIAL, journal, seen.append)
    assert quick.made == ["Toyota", "Space Needle"]
    assert seen == [2]
    assert run(MODEL, REQUESTS, 1, MATERIAL, journal) == summaries
    assert quick.made == ["Toyota", "Space Needle"]
    with pytest.raises(ValueError, match="holds numbers of other edits, another model or other settings; remove it"):
        run(MODEL, REQUESTS[::-1], 1, MATERIAL, journal)
    with pytest.raises(ValueError, match="another model or other settings"):
        run(MODEL, REQUESTS, 1, MATERIAL, Journal(journal.path, {"layer": 2}))


def test_every_stored_number_says_how_it_was_measured(quick: Quick, tmp_path: Path) -> None:
    summaries = run(MODEL, REQUESTS, 1, MATERIAL, Journal(tmp_path / "edits.jsonl", {}))
    lines = frame(summaries)
    assert set(lines["protocol"]) == set(PROTOCOLS)
    assert set(lines["revision"]) == {MODEL.revision}
    assert {"name", "label", "value", "before", "n", "ci_low", "ci_high", "seed", "model"} <= set(lines.columns)
    json.dumps(lines.to_dict("records"), allow_nan=False)
    text = table(summaries)
    row = next(line for line in text.splitlines() if line.startswith("| `easyedit`"))
    assert "100.0 (100.0–100.0)" in row.split(" | ")[1]
    assert text.count("\n") == 1 + len(PROTOCOLS)
    assert next(line for line in text.splitlines() if "`counterfact+`" in line).split(" | ")[1] == "–"
    text = details(summaries)
    assert f"2 edits; model {MODEL.name} ({MODEL.revision[:12]}); protocol rome, seed 0; intervals over edits" in text
    assert "| GE | Generation entropy |" in text
    assert "not measured" not in text


def test_requests_have_two_paraphrases_and_texts_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = load_atlas()
    row = atlas.facts[0]
    probes = tuple(Probe("paraphrase", f"{row.subject} {n}", "Rome") for n in range(5))
    request = EditRequest(atlas.as_fact(row), atlas.counterfactual(row), (*probes, Probe("alias", "It", "Rome")))
    monkeypatch.setattr(protocols, "held_out_requests", lambda *_: [request])
    (found,) = requests_of(MODEL, atlas, 1, 0)
    assert len(found.of_kind("paraphrase")) == 2
    assert len(found.of_kind("alias")) == 1
    assert all(row.subject in prompt for prompt in found.generation_prompts)
    assert requests_of(MODEL, atlas, 1, 0) == [found]


def test_reference_texts_are_about_things_with_the_answer() -> None:
    atlas = load_atlas()
    fact = atlas.facts[0]
    names = [snippet.name for snippet in references_of(atlas).of(fact.relation, fact.object)]
    assert names == [other.subject for other in atlas.sharing(fact.relation, fact.object)]
    assert all(f"{fact.object}." in s.text for s in references_of(atlas).of(fact.relation, fact.object))


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert protocols.main(["--edits", "0"]) == 2
    assert "--edits is 0; expected at least 1" in capsys.readouterr().err
    assert protocols.main(["--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "config.json" in capsys.readouterr().err
