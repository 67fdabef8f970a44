"""Saved runs and a link of an earlier version: each still gives the numbers it gave then."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.__main__ import MAIN
from app.runs.files import read_run
from app.server import cache
from app.session.run import EditRun, Run, TraceRun
from tests.app.conftest import PATIENCE

DATA = Path(__file__).parent / "data"


NAMES = {
    "trace": "model revision prompt subject answer site measure settings tokens subject_span samples clean corrupted "
    "effect low high title peak largest total",
    "scores": "model revision protocol seed prompt subject old new method layer way title",
}
OF_A_SCORE = "name metric label headline before after ci n unit protocol definition reason"


def record(run: Run) -> dict[str, Any]:
    """What the page shows of a run, as JSON has it."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    kind = "trace" if isinstance(run, TraceRun) else "scores"
    values = {name: plain(getattr(run, name)) for name in NAMES[kind].split()}
    if isinstance(run, EditRun):
        values["scores"] = [{name: plain(getattr(score, name)) for name in OF_A_SCORE.split()} for score in run.scores]
    return values


@pytest.mark.parametrize("name", ["trace", "scores"])
def test_a_run_saved_by_an_earlier_version_opens_with_its_numbers(name: str) -> None:
    expected = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))[name]
    text = (DATA / f"{name}.json").read_text(encoding="utf-8")
    run = read_run(text.encode())
    assert record(run) == expected
    assert run.text == text


def test_a_run_of_the_session_and_the_same_run_from_its_file_are_one(bundled_page: AppTest) -> None:
    """Also the link: every field as it says, and the trace with the numbers that it had."""
    saved = json.loads((DATA / "link.json").read_text(encoding="utf-8"))
    fields_now = {name: bundled_page.session_state[name] for name in saved["fields"]}
    assert fields_now == saved["fields"]
    assert {name: bundled_page.query_params[name] for name in saved["url_after"]} == saved["url_after"]
    for run in bundled_page.session_state["session"].runs.values():
        then = saved["numbers"][run.site]
        assert run.clean == pytest.approx(then["clean"], abs=1e-5)
        assert run.corrupted == pytest.approx(np.mean(then["corrupted"]), abs=1e-5)
        assert np.nansum(run.effect) == pytest.approx(then["sum"], abs=1e-5)
        again = read_run(run.text)
        assert again.key == run.key
        assert record(again) == record(run)
    assert {run.site for run in bundled_page.session_state["session"].runs.values()} == set(saved["numbers"])


@pytest.fixture
def bundled_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AppTest]:
    """The Workbench on the bundled model, opened with a link of an earlier version that runs its trace."""
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    monkeypatch.delenv("ENGRAM_MODELS", raising=False)
    cache.runner.clear()
    cache.shelf.clear()
    page = AppTest.from_file(str(MAIN), default_timeout=PATIENCE)
    for name, value in json.loads((DATA / "link.json").read_text(encoding="utf-8"))["link"].items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    yield page
    cache.runner().close()
    cache.runner.clear()
    cache.shelf.clear()
