"""The cap on what is computed again: least recently used first, nothing in use, no fetched model."""

import json
import os
import time
from pathlib import Path

import pytest

from models.__main__ import main
from models.sources.cache import mark_used, trim


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of three computed files of 400 bytes and a fetched model, used one after the other since yesterday."""
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    for hour, name in enumerate(("moments/a", "spectra/b", "moments/c", "models/m/weights")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(400))
        os.utime(path, (0, time.time() - 86400 + 3600 * hour))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_least_recently_used_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CACHE_GB", "1e-6")  # 1,000 bytes
    assert trim() == 400
    assert names(folder) == ["b", "c", "weights"]


def test_what_was_used_just_now_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CACHE_GB", "0")
    mark_used(folder / "moments/a")
    assert trim() == 800
    assert names(folder) == ["a", "weights"]


def test_the_command_shows_and_clears(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["computed_bytes"], shown["cap_bytes"]) == (1200, 5 * 10**9)
    assert shown["folders"]["models"] == {"files": 1, "bytes": 400, "capped": False}
    assert main(["cache"]) == 0
    assert "moments" in capsys.readouterr().out
    assert main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"freed_bytes": 1200}
    assert names(folder) == ["weights"]


def test_mistakes_are_sentences(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["cache", "--models"]) == 1
    assert "add --clear" in capsys.readouterr().err
    monkeypatch.setenv("ENGRAM_CACHE_GB", "much")
    assert main(["cache"]) == 1
    assert "ENGRAM_CACHE_GB is 'much'" in capsys.readouterr().err
