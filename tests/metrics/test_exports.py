"""The same numbers in every form that leaves the program."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pandas as pd
import pytest

from facts import EditRequest
from metrics import METRICS, EditReport, Score, evaluate
from metrics.tables import escape, interval, number
from tests.metrics.cases import FACT, REQUEST, base_model, edited_model


@pytest.fixture(scope="module")
def report() -> EditReport:
    return evaluate(base_model(), edited_model(), REQUEST, seed=7, about={"method": "rome", "layer": 3})


def test_frame_has_a_line_for_every_prompt(report: EditReport) -> None:
    frame = report.to_frame()
    assert list(frame["prompt"]) == [row.prompt for row in report.rows]
    edit = frame.iloc[0]
    assert (edit["text_before"], edit["text_after"]) == ("Paris", "New York and")
    assert edit["p_answer_after"] == pytest.approx(0.81)
    scores = report.summary_frame()
    assert list(scores["name"]) == [score.name for score in report.scores]
    assert {"protocol", "n", "seed", "ci_low", "ci_high", "model", "revision"} <= set(scores.columns)
    assert set(scores["revision"]) == {report.model_revision}
    assert set(scores["seed"]) == {7}


def test_csv_round_trips_and_names_model_and_protocol(report: EditReport) -> None:
    table = pd.read_csv(io.StringIO(report.to_csv()))
    assert len(table) == len(report.rows)
    assert set(table["protocol"]) == {"engram"}
    assert set(table["model"]) == {"known"}
    assert set(table["revision"]) == {report.model_revision}
    assert set(table["seed"]) == {7}
    assert table["p_answer_after"][0] == pytest.approx(0.81)
    assert not table["counted"].all()


def test_json_holds_everything_and_no_nan(report: EditReport) -> None:
    record = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert record["model"] == "known"
    assert record["about"] == {"method": "rome", "layer": 3}
    assert record["settings"]["seed"] == 7
    assert set(record["versions"]) >= {"python", "torch"}
    assert record["request"]["fact"]["subject"] == "Tower"
    assert len(record["prompts"]) == len(report.rows)
    by_name = {score["name"]: score for score in record["scores"]}
    assert by_name["reliability.greedy"]["after"] == 1
    assert by_name["portability.one_hop_greedy"]["after"] is None
    assert "bridge" in by_name["portability.one_hop_greedy"]["not_measured"]
    assert by_name["locality.greedy"]["left_out"] == "1: the unedited model did not know the answer"
    assert [entry["headline"] for entry in record["scores"]].count(True) == len(METRICS)
    assert record["texts"] == [{"prompt": "the Tower", "before": " is", "after": " stands"}]


def test_empty_report_exports_too() -> None:
    bare = replace(evaluate(base_model(), edited_model(), EditRequest(FACT, "New York")), rows=(), scores=())
    assert list(bare.to_frame().columns)[:3] == ["metric", "kind", "prompt"]
    assert json.loads(bare.to_json())["prompts"] == []


def test_markdown_is_a_table(report: EditReport) -> None:
    lines = report.to_markdown().splitlines()
    assert "Paris → New York" in lines[0]
    assert "layer 3" in lines[0]
    assert len(lines) == 4 + len(report.scores)
    bars = [line.replace("\\|", "").count("|") for line in lines[2:]]
    assert set(bars) == {9}


def test_latex_is_balanced_and_escaped(report: EditReport) -> None:
    request = replace(REQUEST, fact=replace(FACT, template="100 % of_{} & ~^\\ #$ {{x}}".replace("{{x}}", "x")))
    text = replace(report, request=request).to_latex()
    assert text.count("\\begin{") == text.count("\\end{") == 2
    for word in ("\\toprule", "\\midrule", "\\bottomrule", "100 \\% of\\_", "\\&", "\\textasciitilde{}", "\\#\\$"):
        assert word in text
    body = text.split("\\midrule")[1:]
    assert all(line.count(" & ") == 7 for part in body for line in part.splitlines() if line.endswith("\\\\"))


def test_escape_writes_out_every_special_character() -> None:
    assert escape("a_b & 5% {x} \\") == "a\\_b \\& 5\\% \\{x\\} \\textbackslash{}"


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (None, "share", False, "–"),
        (0.975, "share", False, "97.5 %"),
        (-0.25, "share", True, "-25.0 pt"),
        (0.0000123, "share", False, "0.00123 %"),
        (2**30, "bytes", False, "1,024 MiB"),
        (1234567, "entries", False, "1,234,567"),
        (1.5, "rank", False, "1.5"),
        (0.1234, "s", False, "0.123 s"),
    ],
)
def test_numbers_as_people_read_them(value: float | None, unit: str, signed: bool, text: str) -> None:
    assert number(value, unit, signed=signed) == text  # type: ignore[arg-type]


def test_interval_names_its_unit_once(report: EditReport) -> None:
    score: Score = report.score("reliability.greedy")
    assert interval(score) == "20.7 to 100.0 %"
    assert interval(report.score("reliability.rank")) == "–"


def test_unknown_names_are_refused_with_the_choices(report: EditReport) -> None:
    with pytest.raises(ValueError, match="unknown score 'x'; choose from reliability"):
        report.score("x")
    with pytest.raises(ValueError, match="unknown metric 'fluency'; choose from reliability"):
        report.headline("fluency")  # type: ignore[arg-type]
