"""The mean over traces of a session, with hand-worked numbers."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.runs.average_runs import average, why_not
from app.runs.files import read_run
from app.session.run import Run
from tests.app.test_saved import edit_record, trace_record

NewPage = Callable[..., AppTest]


def trace(prompt: str, first: list[float], config: dict[str, Any] | None = None, **changes: Any) -> Run:
    """A subject of one token with these effects, and a last token without any."""
    record = trace_record(prompt=prompt, **changes)
    record["effect"] = record["effect_low"] = record["effect_high"] = [first, [0.0, 0.0, 0.0]]
    record["config"] |= config or {}
    return read_run(json.dumps(record))


def test_a_fact_counts_once_however_often_it_was_traced() -> None:
    runs = [trace("Rome is", [0.1, 0.2, 0.3]), trace("Rome is", [0.3, 0.4, 0.5], {"seed": 1}, clean=0.7)]
    runs.append(trace("Oslo is", [0.6, 0.3, 0.0]))
    assert np.isnan(average(runs).ci("mlp_out", "last_subject")[0]).all(), "two facts have no interval"
    runs.append(trace("Bern is", [0.4, 0.3, 0.2]))
    assert why_not(runs) == ""
    found = average(runs)
    assert found.n_facts == 3
    assert found.mean("mlp_out", "last_subject") == pytest.approx([0.4, 0.3, 0.2])
    low, high = found.ci("mlp_out", "last_subject")
    # Facts 0.2, 0.6 and 0.4: standard error 0.2 / sqrt(3), and t of two degrees of freedom is 4.303.
    half = 4.303 * 0.2 / 3**0.5
    assert (low[0], high[0]) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-3)
    assert (low[1], high[1]) == pytest.approx((0.3, 0.3), abs=1e-6)
    assert found.ate == pytest.approx((0.6 + 0.7 + 0.7) / 3)
    assert np.isnan(found.mean("mlp_out", "middle_subject")).all()


def test_a_map_that_some_facts_lack_has_an_n_of_its_own() -> None:
    state = {"site": "resid_post", "window": 1}
    runs = [trace("Rome is", [0.1, 0.2, 0.3]), trace("Oslo is", [0.6, 0.3, 0.0]), trace("Bern is", [0.5] * 3, state)]
    assert why_not(runs) == ""  # the window of one kind of state may differ from another's
    found = average(runs)
    assert list(found.effects) == ["resid_post", "mlp_out"]
    assert (found.n("resid_post", "last_subject"), found.n("mlp_out", "last_subject")) == (1, 2)
    assert found.mean("resid_post", "last_subject") == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"measure": "kl"}, "kl and probability"),
        ({"revision": "b" * 64}, "different models"),
        ({"config": {"window": 5}}, "window, 3 and 5"),
        ({"config": {"noise": 5.0}}, "noise, 3.0 and 5.0"),
    ],
)
def test_what_has_no_common_mean_is_refused(changes: dict[str, Any], word: str) -> None:
    runs = [trace("Rome is", [0.1] * 3), trace("Oslo is", [0.2] * 3), trace("Bern is", [0.3] * 3, **changes)]
    assert word in why_not(runs)
    assert "1 of these 4 runs is an edit" in why_not([*runs, read_run(json.dumps(edit_record()))])


def test_ticked_traces_are_drawn_as_one_map(new_page: NewPage, monkeypatch: pytest.MonkeyPatch) -> None:
    page = new_page()
    page.switch_page("runs/page.py").run()
    runs = [trace(prompt, [effect] * 3) for prompt, effect in (("Rome is", 0.1), ("Oslo is", 0.2), ("Bern is", 0.6))]
    files = [(f"{index}.json", run.text.encode(), "application/json") for index, run in enumerate(runs)]
    page.file_uploader(key="runs_files").set_value(files).run()
    monkeypatch.setattr("app.runs.show_runs._table", lambda shown, words, kind: list(shown))
    page.button(key="runs_open").click().run()
    assert not page.exception
    captions = " ".join(caption.value for caption in page.caption).replace("\\", "")
    assert "n = 3 facts, average total effect 0.70 (95 % CI 0.70 to 0.70)" in captions
    (chart,) = page.get("plotly_chart")
    drawn = json.loads(chart.proto.spec)["data"][0]
    assert drawn["colorbar"]["title"]["text"].startswith("Average indirect effect (probability)")
    # The subject's one token is its first and its last, and three facts leave much open; no prompt has other tokens.
    assert [row[0] for row in drawn["text"]] == ["·", "", "·", "", "", "·"]
    assert "3 facts" in chart.proto.alt
    assert {button.proto.label for button in page.get("download_button")} >= {"Figure (PDF)", "Means (CSV)"}
