"""Saved runs: what the Workbench exports comes back with the same numbers, and everything else is refused."""

import json
import math
from typing import Any

import pytest

from app.runs.files import LARGEST, read_run
from app.session.run import EditRun, TraceRun


def trace_record(**changes: Any) -> dict[str, Any]:
    """A trace of two tokens and three layers, as `TraceResult.to_json` writes it."""
    record: dict[str, Any] = {
        "format": "engram-trace-2",
        "config": {"site": "mlp_out", "window": 3, "noise": 3.0, "samples": 2, "seed": 0, "batch_size": None},
        "model_name": "tiny",
        "revision": "a" * 64,
        "prompt": "Rome is in",
        "subject": "Rome",
        "tokens": ["Rome", " is"],
        "subject_span": [0, 1],
        "answer": " Italy",
        "clean": 0.9,
        "corrupted": [0.1, 0.3],
        "measure": "probability",
        "effect": [[0.1, 0.4, 0.2], [0.0, None, 0.6]],
        "effect_low": [[0.0, 0.3, 0.1], [0.0, None, 0.5]],
        "effect_high": [[0.2, 0.5, 0.3], [0.1, None, 0.7]],
    }
    return record | changes


def score_record(name: str, after: float | None, **changes: Any) -> dict[str, Any]:
    metric = name.partition(".")[0]
    record: dict[str, Any] = {
        "name": name,
        "metric": metric,
        "label": name,
        "headline": True,
        "before": 0.0,
        "after": after,
        "n": 4,
        "ci_low": 0.5,
        "ci_high": 1.0,
        "unit": "share",
        "protocol": "engram",
        "definition": "How often.",
        "not_measured": "" if after is not None else "no prompts were given",
    }
    return record | changes


def edit_record(**changes: Any) -> dict[str, Any]:
    """Scores of an edit, as `EditReport.to_json` writes them."""
    record: dict[str, Any] = {
        "protocol": "engram",
        "model": "tiny",
        "revision": "a" * 64,
        "seed": 0,
        "about": {"method": "r-rome", "layer": 1},
        "settings": {"max_new_tokens": 16, "distractors": []},
        "request": {
            "fact": {"subject": "Rome", "template": "{} is in", "target_true": "Italy", "relation": ""},
            "target_new": "Spain",
        },
        "scores": [score_record("reliability.greedy", 0.75), score_record("locality.greedy", None)],
    }
    return record | changes


def saved_trace(**changes: Any) -> TraceRun:
    run = read_run(json.dumps(trace_record(**changes)))
    assert isinstance(run, TraceRun)
    return run


def saved_edit(**changes: Any) -> EditRun:
    run = read_run(json.dumps(edit_record(**changes)))
    assert isinstance(run, EditRun)
    return run


def test_the_numbers_of_a_trace() -> None:
    run = saved_trace()
    assert run.total == pytest.approx(0.9 - 0.2)
    assert run.peak == (0, 1)  # the last subject token, not the largest effect of all
    assert math.isnan(run.effect[1][1])
    assert run.settings == {"window": "3", "noise": "3.0", "seed": "0"}
    assert run.title == "Rome is in (MLP)"


def test_the_largest_effect_is_named_wherever_it_is_before_the_last_token() -> None:
    """As on the Eiffel Tower in SmolLM2: at the last subject token next to nothing, at another one much."""
    rows = [[0.4, 0.5], [0.01, 0.0], [0.0, 0.9]]
    run = saved_trace(tokens=["E", "iffel", " is"], subject_span=[0, 2], effect=rows, effect_low=rows, effect_high=rows)
    assert (run.largest, run.peak) == ((0, 1), (1, 0))


def test_the_numbers_of_an_edit() -> None:
    run = saved_edit()
    assert (run.prompt, run.old, run.new, run.method, run.layer) == ("Rome is in", "Italy", "Spain", "r-rome", "1")
    score = run.headline("reliability")
    assert score is not None
    assert (score.after, score.change, score.ci, score.n) == (0.75, 0.75, (0.5, 1.0), 4)
    missing = run.headline("locality")
    assert missing is not None
    assert (missing.after, missing.change, missing.reason) == (None, None, "no prompts were given")
    assert run.headline("portability") is None


def test_equal_files_are_one_run() -> None:
    assert saved_trace().key == saved_trace().key != saved_trace(clean=0.8).key


BAD = [
    ("", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('{"format": NaN}', "NaN"),
    ("1" * 5000, "not JSON"),
    ("[]", "neither a trace nor scores"),
    ("{}", "neither a trace nor scores"),
    (trace_record(format="engram-trace-9"), "engram-trace-9"),
    (trace_record(tokens="Rome is"), "tokens"),
    (trace_record(subject_span=[1, 9]), "spans tokens 1 to 9 of 2"),
    (trace_record(subject_span=[]), "subject_span[0] is missing"),
    (trace_record(corrupted=[]), "corrupted is []: list should have at least 1 item"),
    (trace_record(corrupted=[None]), "corrupted[0] is None: input should be a valid number"),
    (trace_record(corrupted=[True]), "corrupted"),
    (trace_record(effect=[[0.1], [0.2, 0.3]]), "effect is not 2 rows"),
    (trace_record(effect=[[0.1] * 300] * 2), "at most 256"),
    (trace_record(effect=[["x"] * 3] * 2), "effect[0][0] is 'x': input should be a valid number"),
    (trace_record(effect_low=[[0.1], [0.2]]), "effect_low is not 2 rows"),
    (trace_record(clean=10**400), "clean"),
    (trace_record(prompt="x" * 5000), "prompt"),
    (trace_record(config={"site": "attn_heads"}), "attn_heads"),
    (trace_record(config=3), "config.site is missing"),
    (edit_record(scores={}), "scores"),
    (edit_record(scores=[score_record("taste.greedy", 1.0)]), "taste"),
    (edit_record(scores=[score_record("locality.greedy", "high")]), "scores[0].after"),  # type: ignore[arg-type]
    (edit_record(seed="0"), "seed is '0': input should be a valid integer"),
    (edit_record(about={"method": 3}), "about.method is 3: input should be a valid string"),
    (edit_record(request={"fact": 1}), "request.fact.template is missing"),
]


@pytest.mark.parametrize(("content", "named"), BAD, ids=[named for _, named in BAD])
def test_what_is_no_saved_run_is_refused_in_a_sentence(content: Any, named: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ValueError, match="the file") as refused:
        read_run(text)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_large_and_broken_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 2"):
        read_run(b" " * (LARGEST + 1))
    with pytest.raises(ValueError, match="UTF-8"):
        read_run(b"\xff\xfe\x00")


def test_a_divergence_is_moved_most_where_it_falls_most() -> None:
    run = read_run(json.dumps(trace_record(measure="kl", effect=[[0.1, -0.4, -0.2], [0.0, None, 0.6]])))
    assert isinstance(run, TraceRun)
    assert run.peak == (0, 1)
