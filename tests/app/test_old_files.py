"""Saved runs and a link of an earlier version: each still gives the numbers it gave then."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.__main__ import MAIN
from app.runs.files import read_run
from app.server import cache
from app.session.run import Run, TraceRun
from tests.app.conftest import PATIENCE

DATA = Path(__file__).parent / "data"


def record(run: Run) -> dict[str, Any]:
    """A run's fields as JSON has them."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return asdict(value)  # type: ignore[arg-type]
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    values = {field.name: plain(getattr(run, field.name)) for field in fields(run) if field.name != "source"}
    values["title"] = run.title
    if isinstance(run, TraceRun):
        values |= {"peak": list(run.peak), "largest": list(run.largest), "total": run.total}
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


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
