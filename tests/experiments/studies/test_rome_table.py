"""Published results beside ours: which belong together, and runs on tiny models of a file and of the atlas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments.studies import average_effects, rome_table
from experiments.studies.parts.known import Drawn
from experiments.studies.rome_table import beside, public_constants, shown_table
from models import published
from models.published import GPT2_MEDIUM, GPT2_XL, RESULTS, Result, results_for
from tests.experiments.studies.made import known_facts, requests_of, run_study
from tests.tiny import tiny_model

FILE = Path(__file__).parents[2] / "facts" / "importers" / "data" / "counterfact.json"


def ours(name: str, protocol: str = "rome", **changes: float | None) -> dict[str, object]:
    row = {"method": "rome", "protocol": protocol, "name": name, "unit": "share", "value": 0.8, "before": 0.2}
    return row | {"ci_low": 0.7, "ci_high": 0.9, "n": 50, "seed": 0} | changes


def test_results_of_the_paper() -> None:
    scores = {
        result.name: result.value
        for result in results_for(GPT2_XL, "counterfact")
        if result.source.startswith("Meng") and not result.before
    }
    assert scores == {"S": 0.892, "ES": 1.0, "PS": 0.964, "NS": 0.754}
    before = [result.value for result in results_for(GPT2_MEDIUM, "counterfact") if result.before]
    assert before == [0.334, 0.753, 0.457]
    assert all(0 <= result.value <= 1 for result in RESULTS)
    assert results_for(("gpt2", 3, 5), "counterfact") == ()


def test_each_published_value_stands_beside_its_own_score() -> None:
    theirs = (
        Result(GPT2_XL, "rome", "counterfact", "rome", "ES", 1.0, "a paper"),
        Result(GPT2_XL, "rome", "counterfact", "rome", "NS", 0.5, "a paper", before=True),
        Result(GPT2_XL, "memit", "counterfact", "rome", "ES", 0.9, "another", how="many at once"),
    )
    rows = beside(pd.DataFrame([ours("ES"), ours("NS"), ours("GE", before=None)]), theirs)
    found = {(row["method"], row["name"], bool(row["before"])): row for row in rows.to_dict("records")}
    assert found["rome", "ES", False]["published"] == 1.0
    assert (found["rome", "ES", False]["ours"], found["rome", "ES", False]["n"]) == (0.8, 50)
    assert pd.isna(found["rome", "ES", True]["published"])
    assert (found["rome", "NS", True]["published"], found["rome", "NS", True]["ours"]) == (0.5, 0.2)
    assert pd.isna(found["memit", "ES", False]["ours"])  # measured otherwise, so not held against single edits
    assert ("rome", "GE", True) not in found
    clean = rows.astype(object).where(rows.notna(), None).to_dict("records")
    text = shown_table(clean)
    assert "| rome | rome | ES | after | 1.000 | 0.800 (0.700 to 0.900) | 50 | a paper |" in text
    assert "| memit | rome | ES | after | 0.900 | – | – | another; many at once |" in text


def test_constants_of_the_public_codes() -> None:
    assert public_constants("rome") == {"compat": "rome-code"}
    assert public_constants("r-rome") == {"compat": "r-rome-code"}
    assert public_constants("ft") == {}


def test_a_table_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    size = ("gpt2", model.n_layers, model.d_model)
    fake = Result(size, "ft", "counterfact", "rome", "ES", 0.5, "nobody")
    monkeypatch.setattr(published, "RESULTS", (fake,))
    words = ("--file", str(FILE), "--facts", "2", "--all-facts", "--methods", "ft", "--set", "steps=2", "--probes", "1")
    plan, _, record = run_study(model, "rome-table", tmp_path / "run", *words)
    assert [cell.spec["protocols"] for cell in plan.cells] == [["rome", "counterfact+"]] * 2
    assert plan.about["data"] == "counterfact"
    rows = {(row["protocol"], row["name"], row["before"]): row for row in record["found"]["rows"]}
    assert rows["rome", "ES", False]["published"] == 0.5
    assert rows["rome", "ES", False]["n"] == 2
    assert rows["counterfact+", "NS+", True]["published"] is None
    assert rows["counterfact+", "NS+", True]["ours"] is not None
    text = (tmp_path / "run" / "out" / "rome-table.md").read_text(encoding="utf-8")
    assert "| ft | rome | ES | after | 0.500 |" in text
    assert rome_table.KNOWN not in text


def test_our_values_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    monkeypatch.setattr(rome_table, "draw_requests", lambda *_: Drawn(tuple(requests_of(known_facts(model, 2)))))
    words = ("--facts", "2", "--methods", "ft", "--set", "steps=2")
    _, _, record = run_study(model, "rome-table", tmp_path / "run", *words)
    assert {row["published"] for row in record["found"]["rows"]} == {None}
    assert rome_table.KNOWN.strip() in (tmp_path / "run" / "out" / "rome-table.md").read_text(encoding="utf-8")


def test_average_effects_stand_beside_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    size = ("gpt_neo", model.n_layers, model.d_model)
    theirs = tuple(Result(size, "", "traces", "", name, 0.25, "a paper") for name in ("ate", "resid_post 1", "known"))
    monkeypatch.setattr(published, "RESULTS", theirs)
    facts = tuple(known_facts(model, 3))
    monkeypatch.setattr(average_effects, "draw_facts", lambda *_: Drawn(facts, ("unknown prompt",)))
    run_study(model, "average-effects", tmp_path / "run", "--facts", "3", "--samples", "2")
    text = (tmp_path / "run" / "out" / "average-effects.md").read_text(encoding="utf-8")
    assert "| facts known, of those asked | 0.250 | 0.750 | 4 | a paper |" in text
    assert "| resid_post, layer 1, last subject token | 0.250 |" in text
    assert "| p(answer), clean | – |" in text
