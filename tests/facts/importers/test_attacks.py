"""Hostile and broken files: one sentence, or a row set aside; never a traceback, a hang, or a row that vanishes."""

import bz2
import copy
import gzip
import io
import json
import lzma
import random
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facts.importers import BadRowError, Rejected, detect, import_file, preview, read_cases
from facts.importers.files import split, tables
from facts.importers.formats.engram import record_of
from facts.types import Case

DATA = Path(__file__).parent / "data"
ROW = '{"prompt": "The Space Needle is in", "subject": "Space Needle", "target_new": "Rome"}'


def read(text: str | bytes) -> tuple[list[Case], list[Rejected]]:
    """Cases and rows set aside."""
    stream = io.BytesIO(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    aside: list[Rejected] = []
    return list(read_cases(stream, on_rejected=aside.append)), aside


def row(**fields: object) -> str:
    """A plain row with some fields replaced."""
    return json.dumps({**json.loads(ROW), **fields})


def nested(levels: int) -> str:
    """A row with lists in lists."""
    return ROW[:-1] + f', "n": {"[" * levels}{"]" * levels}}}'


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ('{"prompt": "p is", "subject": "p", "target_new": NaN}', "target_new", "is NaN, which is not JSON"),
        ('{"prompt": "p is", "subject": "p", "target_new": -Infinity}', "target_new", "is -Infinity"),
        ('{"prompt": "p is", "target_new": "x", "n": 1e999}', "n", "is too large a number"),
        (f'{{"prompt": "p is", "target_new": "x", "n": {"9" * 10000}}}', "n", "is a whole number of 10000 digits"),
        (nested(500), "n[0]", "is nested deeper than 32 levels"),
        (nested(9999), "", "is nested deeper than 32 levels"),
        ('{"prompt": "p\\ud800 is", "target_new": "x"}', "prompt", "has a broken character"),
        ('{"prompt": "p is", "target_new": "x", "a": {"b": ["\\udfff"]}}', "a.b[0]", "has a broken character"),
        ('{"prompt": "p is", "target_new": "x", "\\udfff": 1}', "", "has a field whose name has a broken character"),
        ('{"prompt": "p is", "target_new": "x", "target_new": "y"}', "target_new", "occurs twice in one object"),
        ('{"prompt": "p is", "target_new": true}', "target_new", "is true or false; expected a text"),
        ('{"prompt": "p is", "target_new": "x" "subject": "p"}', "target_new", "is not JSON: Expecting ',' delimiter"),
        ('{"prompt": "p is", "target_new": "x\ty"}', "target_new", "is not JSON: Invalid control character"),
        ('"a text"', "", "is a text; expected an object"),
        ("17", "", "is a number; expected an object"),
        ("null", "", "is null; expected an object"),
        ('["prompt"]', "", "is a list; expected an object"),
        (row(prompt="x" * 5000), "prompt", "has 5000 characters; at most 4000 are taken"),
        (row(prompt="{} and {}"), "prompt", "holds {} more than once"),
        (row(subject=["Space Needle"]), "subject", "is not a text"),
        (row(target_true="Rome"), "target_new", "is 'Rome', which is the true answer too"),
        (row(target_new=""), "target_new", "is empty, and no true answer is given"),
        (row(prompt="The Space Needle\0 is in"), "prompt", "has a zero character (U+0000)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["[\n{good},\n{bad},\n{good}\n]", "{good}\n{bad}\n{good}\n", "[{good},{bad},{good}]"])
def test_a_bad_row_is_set_aside_with_its_field(form: str, bad: str, field: str, reason: str) -> None:
    if not form.startswith("[") and not bad.startswith("{") and bad[0] != '"':
        bad = f" {bad}"
    text = form.replace("{good}", ROW).replace("{bad}", bad)
    cases, aside = read(text)
    assert len(cases) == 2
    (rejected,) = aside
    assert rejected.row == 2
    assert (rejected.field[:4], rejected.field.count("[") > 5) == (field[:4], "nested" in reason and field != "")
    assert rejected.reason.startswith(reason)
    assert rejected.raw == bad.strip()
    assert "\n" not in rejected.reason


def test_bytes_that_are_not_utf8_cost_one_row() -> None:
    cases, aside = read(ROW.encode() + b"\n" + ROW.replace("Rome", "R\xf8me").encode("latin-1") + b"\n" + ROW.encode())
    assert len(cases) == 2
    assert (
        str(aside[0])
        == "row 2 (line 2): target_new has a broken character (not UTF-8, or a lone surrogate); type it again"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(ROW.encode(), mtime=0), "is compressed with gzip; unpack it first"),
        (bz2.compress(ROW.encode()), "is compressed with bzip2; unpack it first"),
        (lzma.compress(ROW.encode()), "is compressed with xz; unpack it first"),
        (b"\x28\xb5\x2f\xfd\x00", "is compressed with zstd; unpack it first"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"\x80\x04\x95", "is a pickle or another binary file"),
        (ROW.encode("utf-16"), "is UTF-16 text; save it as UTF-8 first"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer, not the file; run: git lfs"),
        (b"<!DOCTYPE html><html>", "is a web page or XML"),
        (b"abc\0def", "is a binary file"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf  \n", "is empty"),
        (b"[]", "holds no row that can be read"),
        (b"{}", "has rows of no known format"),
        (b'[{"a": 1}]', "or give a table with the columns subject, prompt and target_true"),
        (b'[{"a": 1, "b": 2}]', "has rows of no known format \\(fields: a, b\\); the formats are engram, mquake"),
        (b"one sentence", "is neither JSON nor a table: its first line is 'one sentence'"),
        (b"a,a\n1,2\n", "is neither JSON nor a table"),
        (b"\x01\r[a, b]", "is neither JSON nor a table"),  # a carriage return inside the line
        (b"prompt,subject,target_new\n", "holds no row that can be read"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused_in_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(content)
    for source in (file, io.BytesIO(content)):
        with pytest.raises(ValueError, match=message) as error:
            detect(source)
        assert "\n" not in str(error.value)


def test_a_zip_archive_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "facts.csv", "w") as archive:
        archive.writestr("facts.json", ROW)
    with pytest.raises(ValueError, match=r"facts.csv is a zip archive; unpack it first"):
        detect(tmp_path / "facts.csv")


@pytest.mark.parametrize("path", ["no such file", "nul\0", "."])
def test_a_path_that_cannot_be_read(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read .*; give the path of a JSON, JSONL or CSV file"):
        detect(str(tmp_path / path))


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown format 'rom'; choose from engram, mquake, counterfact"):
        list(read_cases(DATA / "rome.json", format="rom"))


def test_a_file_of_bad_rows_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facts.importers.read.MAX_REJECTED", 20)
    assert len(read(f"{ROW}\n" + "x\n" * 20)[1]) == 20
    with pytest.raises(ValueError, match="more than 20 rows cannot be read as 'plain'; name another format"):
        read(f"{ROW}\n" + "x\n" * 21)


def test_without_a_taker_the_first_bad_row_raises() -> None:
    with pytest.raises(BadRowError, match=r"row 2 \(line 2\): target_new is empty.*set such rows aside") as error:
        list(read_cases(io.StringIO(f"{ROW}\n{row(target_new='')}\n")))
    assert error.value.rejected.raw == row(target_new="")


def test_a_missing_bracket_costs_one_row_where_rows_have_lines_of_their_own() -> None:
    pretty = json.dumps([json.loads(ROW)] * 4, indent=2)
    lines = pretty.split("\n")
    del lines[lines.index("  },", lines.index("  },") + 1)]
    cases, aside = read("\n".join(lines))
    assert (len(cases), len(aside)) == (3, 1)
    assert (aside[0].row, aside[0].line) == (2, 7)
    cases, aside = read("[\n" + ",\n".join([ROW, ROW[:-1], ROW, ROW + "}", ROW]) + "\n]")
    assert (len(cases), [rejected.row for rejected in aside]) == (3, [2, 4])


def test_a_missing_bracket_costs_one_row_where_rows_begin_with_a_field_of_their_own() -> None:
    cases, aside = read(f"[{ROW}, {ROW[:-1]}, {ROW},{ROW}]")
    assert (len(cases), [(rejected.row, rejected.line, rejected.raw) for rejected in aside]) == (3, [(2, 1, ROW[:-1])])
    # Where an object inside a row begins like the row, nothing tells the two apart, and all that follows is one row.
    alike = row(n=[{"prompt": 1}])
    cases, aside = read(f"[{alike}, {alike[:-1]}, {alike}]")
    assert (len(cases), len(aside)) == (1, 1)
    assert aside[0].raw.count("Rome") == 2


def test_a_missing_quotation_mark_costs_one_row() -> None:
    cases, aside = read("[" + ",\n".join([ROW, ROW.replace('Needle"', "Needle", 1), ROW]) + "]")
    assert (len(cases), len(aside)) == (2, 1)
    assert aside[0].line == 2


def test_a_file_cut_short_says_so() -> None:
    whole = f"[\n{ROW},\n{ROW}\n]"
    cases, aside = read(whole[:-1])
    assert (len(cases), str(aside[0])) == (2, "row 3 (line 4): is missing: the file ends before its list is closed")
    cases, aside = read(whole[:-20])
    assert (len(cases), aside[0].row, aside[0].raw) == (1, 2, ROW[:-18])


def test_commas_with_nothing_between_are_told() -> None:
    cases, aside = read(f"[{ROW},,{ROW},]")
    assert (len(cases), [entry.reason for entry in aside]) == (2, ["is empty: there is nothing before the comma"])


def test_objects_over_several_lines_follow_one_another() -> None:
    pretty = json.dumps(json.loads(ROW), indent=2)
    cases, aside = read(f"{pretty}\n{pretty}\n")
    assert (len(cases), aside) == (2, [])
    assert [case.id for case in cases] == ["1", "2"]


def test_a_row_too_long_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_ROW", 1000)
    monkeypatch.setattr(split, "SHOWN", 40)
    monkeypatch.setattr("facts.importers.files.text.PIECE", 300)
    lists = row(n=[[i] for i in range(500)])
    for bad in (row(n="x" * 5000), row(n='"' * 5000), row(n="\\" * 5001), lists):
        for text in (f"[{ROW}, {bad}, {ROW}]", f"{ROW}\n{bad}\n{ROW}"):
            cases, aside = read(text)
            assert len(cases) == 2
            assert str(aside[0]) == (
                f"row 2 (line {1 + text.count(chr(10)) // 2}): has {len(bad) + text.startswith('[')} characters; "
                "at most 1000 are taken"
            )
            assert bad.startswith(aside[0].raw)


def test_a_missing_bracket_does_not_swallow_a_long_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_ROW", 1000)
    monkeypatch.setattr("facts.importers.files.text.PIECE", 300)
    cases, aside = read("[\n" + ",\n".join([ROW] * 20 + [ROW[:-1]] + [ROW] * 100) + "\n]")
    assert len(cases) == 120
    assert [rejected.row for rejected in aside] == [21]


def test_tables_with_broken_rows() -> None:
    table = (
        "subject,prompt,target_new\n"
        "Rome,Rome is in,Spain\n"
        "Rome,Rome is in\n"
        'Rome,"Rome is in,Spain\n'
        "Oslo,Oslo is in,Spain\n"
        'Oslo,"Oslo is in\nthe land of",Spain\n'
    )
    cases, aside = read(table)
    assert [case.requests[0].fact.subject for case in cases] == ["Rome", "Oslo", "Oslo"]
    assert [(entry.row, entry.line) for entry in aside] == [(2, 3), (3, 4)]
    assert aside[0].reason == "has 2 cells; the header names 3 columns"
    assert aside[1].raw == 'Rome,"Rome is in,Spain'


def test_a_quotation_mark_does_not_swallow_a_table() -> None:
    rows = "".join(f"Oslo,Oslo {i} is in,Spain\n" for i in range(100))
    cases, aside = read(f'subject,prompt,target_new\nRome,"Rome is in,Spain\n{rows}')
    assert len(cases) == 100
    assert str(aside[0]) == (
        f"row 1 (line 2): is not CSV: a quotation mark opens a cell that goes on for more than {tables.MAX_LINES} lines"
    )


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_tables_with_other_delimiters(delimiter: str) -> None:
    cases, _ = read("\ufeffsubject,prompt,target_new\r\nRome,Rome is in,Spain\r\n".replace(",", delimiter))
    assert cases[0].requests[0].target_new == "Spain"


def test_a_stream_is_read_once_and_left_open() -> None:
    stream = io.BytesIO((DATA / "counterfact.json").read_bytes())
    assert preview(stream, 1).cases[0].id == "0"
    assert len(list(read_cases(stream))) == 3
    assert not stream.closed
    assert len(list(read_cases(io.StringIO((DATA / "plain.csv").read_text(encoding="utf-8"))))) == 3


def outcome(content: bytes) -> list[str]:
    """What reading says: the cases' names and the rows set aside, or why it cannot be read at all."""
    try:
        cases, aside = read(content)
    except ValueError as error:
        return [str(error)]
    return [*(repr(case.id) for case in cases), *map(str, aside)]


@pytest.mark.parametrize("name", ["counterfact.json", "plain.csv", "plain.jsonl", "rippleedits.json", "mquake_cf.json"])
def test_random_damage_never_raises_anything_but_a_sentence(name: str) -> None:
    source, draw = (DATA / name).read_bytes(), random.Random(name)
    for _ in range(150):
        damaged = bytearray(source)
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(damaged))
            damaged[at : at + draw.randint(0, 3)] = draw.choice(
                [b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\n", b"\xff", b"", b"9"]
            )
        said = outcome(bytes(damaged))
        assert said
        assert all("\n" not in line for line in said)


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    1.5,
    "",
    " ",
    "{}",
    [],
    {},
    [[]],
    [[["a"]]],
    [None],
    [{}],
    {"str": {}},
    [1, "a"],
    "x",
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.json")))
def test_odd_values_anywhere_are_read_or_set_aside(name: str) -> None:
    source, draw = (DATA / name).read_text(encoding="utf-8"), random.Random(name)
    for _ in range(60):
        value = json.loads(source)
        container, key = draw.choice(places(value))
        container[key] = copy.deepcopy(draw.choice(ODD))
        text = json.dumps(value)
        said = outcome(text.encode())
        assert said
        assert all("\n" not in line for line in said)
        if len(said) > 1 or said[0].startswith("'"):
            cases, _ = read(text)
            ours = "".join(json.dumps(record_of(case)) + "\n" for case in cases)
            assert not cases or read(ours) == (cases, [])


def test_damaged_lines_are_all_accounted_for() -> None:
    draw = random.Random(5)
    for _ in range(200):
        lines = [ROW] * 6
        for at in (1, 3):
            cut = draw.randrange(len(ROW))
            lines[at] = ROW[:cut] + draw.choice(['"', "{", "}", "]", ",", "\\", "x"]) + ROW[cut + draw.randint(0, 1) :]
        cases, aside = read("\n".join(lines))
        assert len(cases) + len(aside) == 6
        assert {rejected.row for rejected in aside} <= {2, 4}


class Endless(io.RawIOBase):
    """A JSON list of CounterFact rows, made as it is read."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.handed_out = 0
        self._rows = self._make()
        self._left = b""

    def _make(self) -> Iterator[bytes]:
        example = json.loads((DATA / "counterfact.json").read_text(encoding="utf-8"))[0]
        example["neighborhood_prompts"] = [f"Neighbour {i} is located in the country of" for i in range(10)]
        for i in range(self.n):
            yield (b"," if i else b"[") + json.dumps({**example, "case_id": i}).encode()
        yield b"]"

    def read(self, size: int = -1) -> bytes:
        while len(self._left) < size and (row := next(self._rows, b"")):
            self._left += row
        block, self._left = self._left[:size], self._left[size:]
        self.handed_out += len(block)
        return block


def most_memory(n: int) -> tuple[int, int]:
    """Bytes held at most while `n` rows are read, and bytes read."""
    stream = Endless(n)
    tracemalloc.start()
    assert import_file(stream).cases == n
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, stream.handed_out


def test_memory_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facts.importers.files.text.PIECE", 1 << 14)
    small, _ = most_memory(100)
    large, size = most_memory(800)
    assert size > 800_000
    assert large < small + 50_000
