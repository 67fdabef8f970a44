"""`python -m benchmarks.evaluation` edits, measures twice and prints one line."""

from pathlib import Path

import pytest

from benchmarks.evaluation import main
from tests.tiny import build_tiny


def test_an_edit_and_its_metrics_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in build_tiny("gpt2"):
        part.save_pretrained(tmp_path)
    assert main(["--model", str(tmp_path)]) == 0
    assert ": edit " in (line := capsys.readouterr().out)
    assert "five metrics" in line
    assert "floor" in line
    assert main(["--model", str(tmp_path), "--moments", "200"]) == 0
    assert "second moments of 4 layers from 200 tokens" in capsys.readouterr().out
