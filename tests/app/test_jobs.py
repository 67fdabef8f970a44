"""The queue: one run for many askers, progress, cancel, and errors as sentences."""

import json
import threading
import time
from collections.abc import Iterator

import pytest

from app.server.jobs import Job, Runner, job_key, sentence
from facts.watch import Watch


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner(kept=2)
    yield made
    made.close()


def ended(job: Job, seconds: float = 20.0) -> Job:
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
        gate.wait(10)
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
        gate.wait(10)

    first = runner.submit("a", "first", work)
    second = runner.submit("b", "second", lambda *_: None)
    assert begun.wait(20)
    assert (first.state, first.fraction, runner.ahead(first)) == ("running", 0.25, 0)
    assert (second.state, runner.ahead(second)) == ("queued", 1)
    gate.set()
    assert ended(second).state == "done"


def test_reading_a_prompt_goes_ahead_of_long_work(runner: Runner) -> None:
    gate = threading.Event()
    long = runner.submit("a", "Tracing", lambda *_: gate.wait(20))
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
    job = runner.submit("a", "shared", lambda *_: gate.wait(10), "me")
    runner.submit("a", "shared", lambda *_: gate.wait(10), "you")
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
