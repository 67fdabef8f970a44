"""The queue: one run for many askers, progress, cancel, and errors as sentences."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server.job import Job, job_key
from app.server.jobs import Runner, sentence
from facts.watch import Watch


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner(kept=2)
    yield made
    made.close()


def ended(job: Job, seconds: float = 120.0) -> Job:
    deadline = time.monotonic() + seconds
    while job.live:
        assert time.monotonic() < deadline, f"{job.label} is still {job.state}"
        time.sleep(0.005)
    return job


def test_the_same_question_has_the_same_key() -> None:
    assert job_key("trace", {"a": 1, "b": "é"}) == job_key("trace", {"b": "é", "a": 1})
    assert job_key("trace", {"a": 1}) != job_key("edit", {"a": 1})


def test_a_question_with_a_broken_character_has_a_key() -> None:
    assert job_key("read", "\ud800").startswith("read-")


def test_identical_requests_share_one_run(runner: Runner) -> None:
    runs = []
    gate = threading.Event()

    def work(watch: Watch) -> str:
        runs.append(1)
        gate.wait(120)
        return "map"

    first, second = (runner.submit("k", "Tracing", work, asker) for asker in "ab")
    gate.set()
    assert first is second
    assert ended(first).result == "map"
    assert runner.submit("k", "Tracing", work, "c") is first
    assert len(runs) == 1


def test_progress_and_place_in_the_queue(runner: Runner) -> None:
    gate, begun = threading.Event(), threading.Event()

    def work(watch: Watch) -> None:
        watch.step(1, 4)
        begun.set()
        gate.wait(120)

    first = runner.submit("a", "first", work)
    second = runner.submit("b", "second", lambda *_: None)
    assert begun.wait(120)
    assert (first.state, first.fraction, runner.ahead(first)) == ("running", 0.25, 0)
    assert (second.state, runner.ahead(second)) == ("queued", 1)
    gate.set()
    assert ended(second).state == "done"


def test_reading_a_prompt_goes_ahead_of_long_work(runner: Runner) -> None:
    gate = threading.Event()
    long = runner.submit("a", "Tracing", lambda *_: gate.wait(120))
    waiting = runner.submit("b", "Tracing", lambda *_: None)
    read = runner.submit("c", "Reading the prompt", lambda *_: "read", lane="quick")
    assert ended(read).result == "read"
    assert (long.live, waiting.state, runner.ahead(waiting), runner.ahead(read)) == (True, "queued", 1, 0)
    gate.set()
    assert ended(waiting).state == "done"


def test_a_stage_is_named_and_the_time_left_never_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("app.server.jobs.time.monotonic", lambda: now[0])
    job = Job("a", "Tracing", state="running")
    told = job.tell
    told(0, 0, "reading the model, once")
    assert (job.stage, job.seconds_left()) == ("reading the model, once", None)
    now[0] = 150  # the model took 50 s, which say nothing of the trace
    told(0, 100)
    now[0] = 151
    told(2, 100)
    assert job.seconds_left() is None, "too little was seen"
    now[0] = 152
    told(10, 100)
    assert job.seconds_left() == pytest.approx(18)  # 10 steps in 2 s
    now[0] = 156
    told(11, 100)  # slower, but no later than was promised
    assert job.seconds_left() == pytest.approx(14)
    now[0] = 157
    told(60, 100)  # faster: 60 steps in 7 s
    assert job.seconds_left() == pytest.approx(7 * 40 / 60)
    now[0] = 170
    assert job.seconds_left() == 0


def test_an_early_result_is_seen_at_once(runner: Runner) -> None:
    shown, gate = threading.Event(), threading.Event()

    def work(watch: Watch) -> None:
        shown.wait(120)
        assert watch.show is not None
        watch.show("first sample")
        gate.wait(120)

    job = runner.submit("k", "Tracing", work)
    threading.Timer(0.1, shown.set).start()
    while job.early is None:
        began = time.monotonic()
        runner.pause(600)
        assert time.monotonic() - began < 60
    assert (job.early, job.live) == ("first sample", True)
    gate.set()


def test_cancel_stops_the_work_at_its_next_step(runner: Runner) -> None:
    def work(watch: Watch) -> None:
        while True:
            watch.check()
            time.sleep(0.005)

    job = runner.submit("a", "endless", work, "me")
    runner.cancel(job, "me")
    assert ended(job).state == "cancelled"
    assert job.error == ""
    assert job.result is None


def test_one_of_two_askers_cannot_cancel_for_the_other(runner: Runner) -> None:
    gate = threading.Event()
    job = runner.submit("a", "shared", lambda *_: gate.wait(120), "me")
    runner.submit("a", "shared", lambda *_: gate.wait(120), "you")
    runner.cancel(job, "me")
    assert not job.stop.is_set()
    gate.set()
    assert ended(job).state == "done"


def test_a_failed_or_cancelled_job_can_be_asked_for_again(runner: Runner) -> None:
    def fail(watch: Watch) -> None:
        raise ValueError("the prompt is empty")

    assert ended(runner.submit("a", "failing", fail)).state == "failed"
    assert ended(runner.submit("a", "failing", lambda *_: 1)).result == 1


def test_old_results_are_forgotten(runner: Runner) -> None:
    for name in "abcd":
        ended(runner.submit(name, name, lambda *_: None))
    assert runner.get("a") is None
    assert runner.get("d") is not None
    assert runner.get(None) is None


def test_our_own_errors_reach_the_reader_and_others_only_the_log(caplog: pytest.LogCaptureFixture) -> None:
    from facts import Fact

    with pytest.raises(ValueError, match="empty") as ours:
        Fact.from_prompt("", "x")
    assert sentence(ours.value).startswith("The prompt is empty")
    with pytest.raises(json.JSONDecodeError) as foreign:  # a ValueError, raised outside the project
        json.loads("{")
    told = sentence(foreign.value)
    assert "not foreseen" in told
    assert "Expecting" not in told
    assert told.split()[-1].rstrip(".") in caplog.text


class Visitors:
    """Sessions that come and go."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def here(self, asker: str) -> bool:
        return asker not in self.gone


def test_jobs_of_closed_tabs_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:  # H5
    monkeypatch.setattr("app.server.jobs.AWAY_SECONDS", 0.0)
    visitors, gate, ran = Visitors(), threading.Event(), list[str]()
    runner = Runner(present=visitors.here)
    runner.submit("hold-1", "running", lambda watch: gate.wait(120), "first")
    for tab in range(45):
        runner.submit(f"trace-{tab}", "Tracing", lambda watch, tab=tab: ran.append(tab), f"tab {tab}")
    visitors.gone = {f"tab {tab}" for tab in range(45)}
    mine = runner.submit("trace-mine", "Tracing", lambda watch: "map", "me")
    assert runner.ahead(mine) == 1
    for _ in range(2):
        runner.look_around()
        time.sleep(0.01)
    assert {job.key for job in runner.live()} == {"hold-1", "trace-mine"}
    gate.set()
    assert ended(mine).result == "map"
    assert ran == []
    runner.close()


def test_a_running_job_stops_when_its_last_session_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.jobs.AWAY_SECONDS", 0.0)
    visitors, begun, gate = Visitors(), threading.Event(), threading.Event()

    def work(watch: Watch) -> str:
        begun.set()
        while not gate.wait(0.005):
            watch.check()
        return "map"

    runner = Runner(present=visitors.here)
    job = runner.submit("trace-1", "Tracing", work, "a")
    runner.submit("trace-1", "Tracing", work, "b")
    assert begun.wait(120)
    visitors.gone = {"a"}
    for _ in range(3):
        runner.look_around()
        time.sleep(0.01)
    assert job.live
    assert job.askers == {"b"}
    visitors.gone = {"a", "b"}
    assert ended(job).state == "cancelled"
    runner.close()


def test_a_session_has_one_running_and_one_waiting_job(runner: Runner) -> None:
    gate = threading.Event()
    running = runner.submit("edit-1", "Editing", lambda watch: gate.wait(120), "greedy")
    while running.state == "queued":
        time.sleep(0.005)
    older = runner.submit("score-1", "Scoring", lambda watch: 1, "greedy")
    others = runner.submit("trace-2", "Tracing", lambda watch: 2, "other")
    newer = runner.submit("layers-1", "Every layer", lambda watch: 3, "greedy")
    assert (older.state, older.superseded, running.live) == ("cancelled", {"greedy"}, True)
    assert [runner.ahead(others), runner.ahead(newer)] == [1, 2]
    gate.set()
    assert [ended(others).result, ended(newer).result] == [2, 3]


def test_a_newer_job_takes_the_place_of_the_same_kind(runner: Runner) -> None:
    def work(watch: Watch) -> None:
        while True:
            watch.check()
            time.sleep(0.005)

    first = runner.submit("trace-1", "Tracing", work, "me")
    second = runner.submit("trace-2", "Tracing", lambda watch: "map", "me")
    assert ended(second).result == "map"
    assert first.state == "cancelled"
    assert ended(runner.submit("trace-1", "Tracing", lambda watch: "again", "me")).result == "again"


def test_the_wait_is_what_jobs_ahead_have_left(runner: Runner) -> None:
    gate = threading.Event()
    first = runner.submit("trace-1", "Tracing", lambda watch: gate.wait(120), "a")
    second = runner.submit("trace-2", "Tracing", lambda watch: None, "b")
    third = runner.submit("trace-3", "Tracing", lambda watch: None, "c")
    assert runner.seconds_to_wait(third) is None  # no trace has ended yet
    runner._usual["trace"] = 30.0
    while first.state == "queued":
        time.sleep(0.005)
    first.started = time.monotonic() - 20
    assert runner.seconds_to_wait(second) == pytest.approx(10, abs=1)
    assert runner.seconds_to_wait(third) == pytest.approx(40, abs=1)
    gate.set()
    ended(third)


def test_a_job_past_its_deadline_stops_and_a_hanging_thread_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:  # H3
    monkeypatch.setattr("app.server.jobs.GRACE_SECONDS", 0.0)
    let_go = list[str]()
    gate = threading.Event()
    runner = Runner(deadlines={"long": 0.01, "quick": 60, "fetch": 60}, stuck=lambda: let_go.append("locks"))
    hanging = runner.submit("trace-1", "Tracing", lambda watch: gate.wait(120), "a")
    while hanging.state == "queued":
        time.sleep(0.005)
    while hanging.live:
        time.sleep(0.02)
        runner.look_around()
    assert hanging.state == "failed"
    assert hanging.error.startswith("It was stopped after 0 seconds, the most a job may take here")
    assert (runner.given_up, let_go) == (1, ["locks"])
    runner._deadlines = {"long": 60, "quick": 60, "fetch": 60}
    assert ended(runner.submit("trace-2", "Tracing", lambda watch: "map", "b")).result == "map"
    gate.set()
    runner.close()
    assert hanging.result is None, "a job that was given up changes nothing any more"


def test_what_sessions_share_survives_the_message_that_clears_streamlits_caches() -> None:  # H4
    import streamlit as st

    from app.server import cache

    before = [shared() for shared in (cache.runner, cache.shelf, cache.drawer, cache.uploads, cache.paces)]
    st.cache_resource.clear()
    st.cache_data.clear()
    after = [shared() for shared in (cache.runner, cache.shelf, cache.drawer, cache.uploads, cache.paces)]
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_model_whose_lock_is_never_let_go_of_is_loaded_anew() -> None:
    from app.server.cache import Shelf
    from tests.tiny import tiny_model

    shelf, model = Shelf(), tiny_model("gpt2")
    free, held = shelf._place("free"), shelf._place("held")
    free.model, held.model = tiny_model("gpt_neo"), model
    locked, done = threading.Event(), threading.Event()

    def hang() -> None:
        with model.lock:
            locked.set()
            done.wait(20)

    thread = threading.Thread(target=hang)
    thread.start()
    assert locked.wait(20)
    shelf.forget_held()
    done.set()
    thread.join()
    assert (shelf.loaded("free"), shelf.loaded("held")) == (free.model, None)


def test_weights_that_changed_in_memory_stop_all_work_with_the_model() -> None:
    import torch

    from app.server.cache import Shelf
    from models import LanguageModel
    from tests.tiny import build_tiny

    module, tokenizer = build_tiny("gpt2")
    shelf = Shelf()
    shelf._place("mine").model = LanguageModel("mine", "0", module, tokenizer)
    shelf.check_weights()
    shelf.check_weights()
    assert shelf.changed() == []
    with torch.no_grad():
        next(module.parameters())[0, 0] += 1
    shelf.check_weights()
    assert shelf.changed() == ["mine"]
    with pytest.raises(ValueError, match=r"'mine' in memory are not what was loaded.* start the server again"):
        shelf.get("mine")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from app.server.cache import Shelf
    from tests.tiny import build_tiny

    module, tokenizer = build_tiny("gpt2")
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setenv("ENGRAM_MODELS", f"mine={tmp_path}")
    monkeypatch.setattr("experiments.memory.free_bytes", lambda device: 10_000)
    with pytest.raises(ValueError, match=r"mine needs about 0\.0 GB of memory as float32 and 0\.0 are free; choose"):
        Shelf().get("mine")
    monkeypatch.setattr("app.server.cache.MEMORY_SHARE", 0.0)
    with pytest.raises(ValueError, match="only 0 MB of memory are free, too little for a job"):
        Shelf().get("mine")
    monkeypatch.setattr("experiments.memory.free_bytes", lambda device: 2**40)
    assert Shelf().get("mine").n_layers == module.config.n_layer
