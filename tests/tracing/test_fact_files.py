"""Facts from files: every format, the field's ways to name things, and errors that name the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facts import Fact
from tracing.fact_files import read_facts

ROME = Fact("Rome", "{} is in", "Italy", "in")
OSLO = Fact.from_prompt("so Oslo is in", "Oslo", "Norway")


def test_every_format_and_every_name(tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text(
        '\ufeffsubject,prompt,target_true,relation,extra\nRome,{} is in,Italy,in,"a, b"\nOslo,so Oslo is in,Norway,,\n',
        encoding="utf-8",
    )
    assert read_facts(table) == [ROME, OSLO]
    rows = [
        {"subject": "Rome", "template": "{} is in", "answer": " Italy", "relation": "in", "id": 3},
        {"subject": "Oslo", "prompt": "so Oslo is in", "attribute": "Norway"},  # as known_1000 names it
    ]
    lines = tmp_path / "facts.jsonl"
    lines.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert read_facts(lines) == [ROME, OSLO]
    listed = tmp_path / "facts.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    assert read_facts(str(listed)) == [ROME, OSLO]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "subject,prompt\nRome,Rome is\n,x is\n", "record 2 of .*a.csv.*: it has no subject"),
        ("a.jsonl", '{"subject": "Rome", "prompt": "Oslo is"}', "record 1 .*: the subject 'Rome' does not occur"),
        ("a.jsonl", "{", "cannot be read as jsonl"),
        ("a.json", "[3]", "record 1 .*: it is 3; expected names with values"),
        ("a.json", "3", "cannot be read as json"),
        ("a.csv", "subject,prompt\n", "holds no fact"),
        ("a.txt", "Rome", "end its name in .csv, .jsonl or .json"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_facts(tmp_path / name)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file 'absent\.csv'"):
        read_facts("absent.csv")
