"""The Runs page without a browser: what the Workbench did is listed, and comes back from its file."""

import json
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from app.runs.files import read_run
from app.runs.two_runs import pair_rows
from app.session import runs as session_runs
from app.session.run import EditRun, TraceRun
from tests.app.test_edit import edited
from tests.app.test_saved import edit_record, trace_record

NewPage = Callable[..., AppTest]


def test_what_the_workbench_did_is_listed_and_opens_again_with_equal_numbers(new_page: NewPage) -> None:
    page = edited(new_page)
    traced, scored = page.session_state["session"].runs.values()
    assert isinstance(traced, TraceRun)
    assert isinstance(scored, EditRun)
    assert (traced.site, traced.samples, traced.prompt) == ("mlp_out", 2, scored.prompt)
    assert (scored.method, scored.layer, scored.protocol) == ("r-rome", "2", "engram")
    again = read_run(scored.text.encode())
    assert isinstance(again, EditRun)
    assert again.scores == scored.scores
    assert {row["difference"] for row in pair_rows(scored, again)} <= {"—", "+0 pt", "0 ms", "< 1 ms"}
    page.switch_page("runs/page.py").run()
    assert not page.exception
    (table,) = page.dataframe
    assert list(table.value["run"]) == ["Edit", "Trace"]
    page.segmented_control(key="runs_kind").set_value("trace").run()
    assert list(page.dataframe[0].value["run"]) == ["Trace"]
    page.text_input(key="runs_words").set_value("nowhere").run()
    assert page.dataframe[0].value.empty
    assert any("0 of 2 runs" in caption.value for caption in page.caption)


def test_files_are_opened_or_refused_in_a_sentence(new_page: NewPage) -> None:
    page = new_page()
    page.switch_page("runs/page.py").run()
    assert "Nothing here yet" in page.info[0].value
    files = [
        ("a.json", json.dumps(trace_record()).encode(), "application/json"),
        ("b.json", json.dumps(edit_record()).encode(), "application/json"),
        ("c.json", b"\x80pickle", "application/json"),
    ]
    page.file_uploader(key="runs_files").set_value(files).run()
    page.button(key="runs_open").click().run()
    assert not page.exception
    assert list(page.dataframe[0].value["run"]) == ["Edit", "Trace"]
    (problem,) = page.error
    assert "c" in problem.value
    assert "UTF" in problem.value


def test_the_oldest_runs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_runs, "MOST", 2)
    kept = AppTest.from_function(_add_three).run().session_state["session"].runs
    assert [run.clean for run in kept.values()] == [0.2, 0.3]


def _add_three() -> None:
    import json

    from app.runs.files import read_run
    from app.session import runs as session_runs
    from tests.app.test_saved import trace_record

    for clean in (0.1, 0.2, 0.3):
        session_runs.add(read_run(json.dumps(trace_record(clean=clean))))
