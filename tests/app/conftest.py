"""A page with a tiny random model behind it, run by Streamlit without a browser."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.__main__ import MAIN
from app.server import cache
from tests.tiny import build_tiny

PATIENCE = 120
"""Seconds; nothing here measures speed."""


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """Streamlit puts the page in the place of `__main__`, and a process that a later test spawns would run it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-Neo of four layers on disk; the first one's MLP is zero throughout, as in the bundled model."""
    folder = tmp_path_factory.mktemp("tiny")
    module, tokenizer = build_tiny("gpt_neo")
    for parameter in module.transformer.h[0].mlp.parameters():
        parameter.zero_()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def new_page(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., AppTest]]:
    """Opens the Workbench on the tiny model; parameters are those of a link."""
    monkeypatch.setenv("ENGRAM_MODELS", f"reference={tiny_folder}")
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("ENGRAM_RUNS", str(tmp_path_factory.mktemp("runs")))
    # a random model is not taught an answer in the one or two steps these tests take
    monkeypatch.setattr("experiments.guard.UNLIKELY", 0.0)
    monkeypatch.setattr("app.shared.waiting.PAINTING_SECONDS", 0.0)
    cache.runner.clear()
    cache.shelf.clear()

    def opened(**params: str) -> AppTest:
        page = AppTest.from_file(str(MAIN), default_timeout=PATIENCE)
        for name, value in params.items():
            page.query_params[name] = value
        page.run()
        assert not page.exception
        return page

    yield opened
    cache.runner().close()
    cache.runner.clear()
    cache.shelf.clear()
