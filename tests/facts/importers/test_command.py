"""`python -m facts.importers FILE`: format, count, and the rows set aside, in words and as JSON."""

import json
from pathlib import Path

import pytest

from facts.importers import read_cases
from facts.importers.__main__ import main

DATA = Path(__file__).parent / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three CounterFact rows, the second without its subject, under a name that says nothing."""
    rows = json.loads((DATA / "counterfact.json").read_text(encoding="utf-8"))
    del rows[1]["requested_rewrite"]["subject"]
    path = tmp_path / "download.txt"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_json_names_format_count_and_rows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--json", "--preview", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    aside = file.with_name("download.rejected.jsonl")
    assert (said["format"], said["cases"], said["requests"], said["rejected"]) == ("counterfact", 2, 2, 1)
    assert said["probes"] == {"attribute": 4, "neighborhood": 4, "paraphrase": 4}
    assert said["rejected_rows"] == [
        {"row": 2, "line": 1, "field": "requested_rewrite.subject", "reason": "is missing"}
    ]
    assert said["rejected_file"] == str(aside)
    assert [case["id"] for case in said["preview"]] == ["0"]
    (line,) = aside.read_text(encoding="utf-8").splitlines()
    assert json.loads(json.loads(line)["raw"])["case_id"] == 1


def test_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--rejected", str(file.with_name("bad")), "--preview", "1"]) == 0
    out = capsys.readouterr().out
    assert "CounterFact, multi_counterfact (counterfact), 2 cases" in out
    assert "row 2 (line 1): requested_rewrite.subject is missing" in out
    assert "0: Autonomous University of Madrid, which is located in … Spain" in out
    assert file.with_name("bad").exists()


def test_the_cases_are_written_in_our_own_form(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = file.with_name("ours.jsonl")
    assert main([str(file), "--out", str(ours)]) == 0
    assert [case.id for case in read_cases(ours)] == ["0", "2"]
    assert f"written to {ours}" in capsys.readouterr().out


def test_a_clean_file_takes_the_rows_set_aside_before_away_and_nothing_else(file: Path) -> None:
    aside = file.with_name("download.rejected.jsonl")
    main([str(file)])
    assert aside.exists()
    file.write_text((DATA / "counterfact.json").read_text(encoding="utf-8"), encoding="utf-8")
    main([str(file)])
    assert not aside.exists()
    aside.write_text("mine\n")
    main([str(file)])
    assert aside.read_text() == "mine\n"


def test_one_is_one_and_rows_that_ask_for_a_true_answer_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"src": "Where is the Kremlin?", "subject": "Kremlin", "alt": "Oslo", "answers": ["Moscow", "Oslo"]}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, {**row, "alt": "Rome"}]))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"{path}: zsRE (MEND) (zsre), 1 case",
        "  1 edit",
        f"  1 row set aside in {tmp_path / 'rows.rejected.jsonl'} (1 with a new answer that is a true one):",
    ]
    assert main([str(path), "--keep-same-answers", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cases"], said["rejected"], said["same_answers"]) == (2, 0, 0)


def test_no_file_is_made_where_nothing_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DATA / "rome.json"), "--rejected", str(tmp_path / "bad")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_format_leaves_no_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, bad = tmp_path / "ours", tmp_path / "bad"
    assert main([str(DATA / "rome.json"), "--format", "zsre", "--out", str(ours), "--rejected", str(bad)]) == 1
    assert "row 1 (line 2): alt is missing" in capsys.readouterr().out
    assert len(bad.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "'missing.json' cannot be read (No such file or directory)"),
        ([""], "cannot be read"),
        ([str(DATA / "snippets.json")], "holds reference texts"),
        ([str(DATA / "rome.json"), "--out", "/no/such/folder/x"], "'/no/such/folder/x' cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.write_text("old")
    assert main([str(DATA / "snippets.json"), "--out", str(ours)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    assert ours.read_text() == "old"
