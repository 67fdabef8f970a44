"""The file that importing is measured on is one the importer reads."""

from pathlib import Path

import pytest

from benchmarks.importing import main, write_file
from facts.importers import import_file


def test_the_generated_file_is_counterfact(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_file(path, 3) == path.stat().st_size
    summary = import_file(path)
    assert (summary.format, summary.cases, summary.probes["neighborhood"]) == ("counterfact", 3, 30)


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rows", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("20 rows, ")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| json.load", "| check", "| convert"]
