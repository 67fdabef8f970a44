"""Shared by the tests of editing: a small corpus and a cache of its own."""

from pathlib import Path

import pytest

from tests.editing.quick import CORPUS


@pytest.fixture
def small_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text file for the second moment; what is estimated from it is kept for this test alone."""
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return str(path)
