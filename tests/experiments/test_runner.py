"""The runner and its executors: the same bits from each, and one bad cell never takes another with it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.__main__ import main
from experiments.commands import line
from experiments.identity import identity_of
from experiments.kinds import Context, kind
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan, Spec
from experiments.runner import Progress, RunBrokenError, execute, progress_of
from experiments.workers import worker
from experiments.workers.inline import Inline
from experiments.workers.messages import Executor, KillingExecutor, Setup, Task
from experiments.workers.processes import Processes
from experiments.workers.ray_cluster import RayCluster
from experiments.workers.worker import Worker
from models import load_model
from tests.experiments.made import IDENTITY, draws, ledger_of, payloads
from tests.tiny import build_tiny

EXECUTORS: dict[str, Callable[[], Executor]] = {"inline": Inline, "processes": lambda: Processes(2)}


def run(folder: Path, plan: Plan, executor: Executor, **options: Any) -> tuple[Progress, Ledger]:
    ledger = ledger_of(folder, plan)
    return execute(ledger, plan.name, executor, **options), ledger


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes | None]:
    """The results of 30 draws, computed here without a stop."""
    end, ledger = run(tmp_path_factory.mktemp("whole"), draws(30), Inline())
    assert (end.done, end.failed, end.left, end.total) == (30, 0, 0, 30)
    with ledger:
        return payloads(ledger)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that another process can load."""
    folder = tmp_path_factory.mktemp("model")
    module, tokenizer = build_tiny("gpt_neo")
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def traces(model: str) -> Plan:
    """Three facts, two sites, two seeds; and one edit."""
    facts = [("Space Needle", "The {} is located in the city of"), ("Rome", "{} is the capital of"), ("Oslo", "in {}")]
    cells = [
        Cell(
            "trace",
            {
                "fact": {"subject": subject, "template": template, "target_true": "Paris"},
                "site": site,
                "seed": seed,
                "samples": 2,
            },
        )
        for subject, template in facts
        for site in ("resid_post", "mlp_out")
        for seed in (0, 1)
    ]
    request = {"fact": dict(cells[0].spec["fact"]), "target_new": "Rome"}
    cells.append(Cell("edit", {"request": request, "method": "ft-m", "settings": {"layer": 1, "steps": 2}}))
    return Plan("traces", model, tuple(cells))


def test_inline_and_processes_give_the_same_bits(tmp_path: Path, tiny_folder: str) -> None:
    model = load_model(tiny_folder)
    torch.set_num_threads(2)  # whatever this process has: two threads sum in another order
    plan, found = traces(tiny_folder), {}
    for name, executor in {"inline": Inline(model), "processes": Processes(1)}.items():
        with Ledger(tmp_path / name) as ledger:
            ledger.add(plan, identity_of(model))
            end = execute(ledger, plan.name, executor)
            assert end.done == len(plan.cells), [entry.reason for entry in entries(ledger, plan.name)]
            found[name] = payloads(ledger, plan.name)
    assert found["inline"] == found["processes"]
    assert len(set(found["inline"])) == len(plan.cells)
    assert torch.get_num_threads() == 2


def test_only_workers_beside_this_process_can_be_killed() -> None:
    executors: list[Executor] = [Inline(), Processes(2), RayCluster(2)]
    assert [isinstance(one, KillingExecutor) for one in executors] == [False, True, True]


def test_a_result_that_is_too_large_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.ledger.payload.LARGEST", 4096)
    plan = Plan("sizes", "", (Cell("draw", {"seed": 0, "n": 2000}), Cell("draw", {"seed": 0, "n": 20})))
    end, ledger = run(tmp_path, plan, Inline())
    with ledger:
        large, small = entries(ledger, "sizes")
    assert (end.done, small.status) == (1, "done")
    assert (large.status, large.attempts) == ("failed", 1)
    assert "the cell's result takes 0.0 MiB, and at most" in large.reason


def test_a_worker_with_another_model_refuses(tmp_path: Path, tiny_folder: str) -> None:
    model = load_model(tiny_folder)
    with Ledger(tmp_path) as ledger:
        ledger.add(traces(tiny_folder), {**identity_of(model), "weights_sha256": "0" * 64})
        with pytest.raises(RunBrokenError, match=r"was planned for something else: weights_sha256 .* instead of 0000"):
            execute(ledger, "traces", Inline(model))
        assert ledger.counts("traces")["todo"] == 13
        assert ledger.working("traces") == []


@pytest.mark.parametrize("name", EXECUTORS)
def test_poison_fails_alone_with_its_reason(tmp_path: Path, name: str, whole: list[bytes | None]) -> None:
    hows = ["raise", "memory"] if name == "inline" else ["raise", "memory", "kill", "exit", "hang"]
    poison = tuple(Cell("poison", {"how": how}) for how in hows)
    plan = Plan("mixed", "", (*poison, *draws(30).cells))
    end, ledger = run(tmp_path, plan, EXECUTORS[name](), deadline=0.2)
    with ledger:
        rows = list(entries(ledger, "mixed"))
        assert (end.done, end.failed) == (30, len(hows))
        assert [entry.payload for entry in rows[len(hows) :]] == whole
        reasons = {
            "raise": "RuntimeError: the cell is poisoned (poison, line",
            "memory": "out of memory: 1.0 TiB are needed",
            "kill": "its worker process died (SIGKILL)",
            "exit": "its worker process died (code 3)",
            "hang": "it took longer than its deadline of 0.2 s",
        }
        for how, entry in zip(hows, rows, strict=False):
            assert (entry.status, entry.attempts) == ("failed", 3)
            assert entry.reason.startswith(reasons[how])


def test_what_fails_once_is_done_the_second_time_and_failures_can_be_retried(tmp_path: Path) -> None:
    once, never = tmp_path / "once", tmp_path / "never"
    cells = tuple(Cell("poison", {"how": "raise", "until": str(path)}) for path in (once, never / "x"))
    end, ledger = run(tmp_path, Plan("again", "", cells), Inline())
    with ledger:
        first, second = entries(ledger, "again")
        assert (end.done, end.failed) == (1, 1)
        assert (first.status, first.attempts, first.reason) == ("done", 1, "")
        assert "No such file or directory" in second.reason
        never.mkdir()
        (never / "x").touch()
        assert ledger.retry("again") == 1
        assert execute(ledger, "again", Inline()).done == 2


def test_a_killed_worker_is_replaced_and_its_cell_done_again(tmp_path: Path, whole: list[bytes | None]) -> None:
    executor = Processes(2)
    killed: list[int] = []

    def kill(now: Progress) -> None:
        if len(killed) < 4 and now.done >= 5 * (len(killed) + 1):
            pid = executor.pids[len(killed) % 2]
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    end, ledger = run(tmp_path, draws(30, seconds=0.01), executor, progress=kill)
    with ledger:
        assert end.done == 30
        assert len(killed) == 4
        assert all(entry.attempts <= 2 for entry in entries(ledger, "draws"))
        assert [entry.result["mean"] for entry in entries(ledger, "draws") if entry.result] == [
            decoded["mean"] for decoded in _results(whole)
        ]


def _results(found: list[bytes | None]) -> list[dict[str, Any]]:
    from experiments.ledger.payload import decode

    return [decode(payload) for payload in found if payload is not None]


@pytest.mark.parametrize("name", EXECUTORS)
def test_stop_finishes_the_cell_in_hand_and_the_run_goes_on_later(
    tmp_path: Path, name: str, whole: list[bytes | None]
) -> None:
    seen: list[Progress] = []
    stop = threading.Event()

    def progress(now: Progress) -> None:
        seen.append(now)
        if now.done >= 7:
            stop.set()

    end, ledger = run(tmp_path, draws(30), EXECUTORS[name](), progress=progress, stop=stop.is_set)
    with ledger:
        slots = EXECUTORS[name]().slots
        assert 7 <= end.done < 7 + 2 * slots + 1
        assert ledger.counts("draws")["leased"] == 0
        assert seen[-1].left == 30 - end.done
        assert execute(ledger, "draws", EXECUTORS[name]()).left == 0
        assert payloads(ledger) == whole


def test_progress_tells_rate_and_time_left(tmp_path: Path) -> None:
    seen: list[Progress] = []
    _, ledger = run(tmp_path, draws(20, seconds=0.002), Inline(), progress=seen.append)
    ledger.close()
    assert seen[0].rate is None
    middle = next(now for now in seen if now.done == 10)
    assert middle.rate is not None
    assert middle.seconds_left == pytest.approx(10 / middle.rate)
    assert [now.done for now in seen] == sorted(now.done for now in seen)
    assert (seen[-1].done, seen[-1].seconds_left) == (20, 0)


def test_an_onlooker_sees_counts_and_rate(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(12)) as ledger:
        assert progress_of(ledger, "draws") == Progress(0, 0, 12, 0, None, None)
        execute(ledger, "draws", Inline(), stop=lambda: ledger.counts("draws")["done"] >= 5)
        with ledger.write() as connection:  # as if one result came every two seconds
            connection.execute("UPDATE results SET finished = ? - 2 * rowid", (time.time(),))
        assert progress_of(ledger, "draws") == Progress(5, 0, 12, 0, pytest.approx(0.5), pytest.approx(14.0))


def test_two_runners_share_a_run(tmp_path: Path, whole: list[bytes | None]) -> None:
    ledger_of(tmp_path, draws(30)).close()
    ends = []

    def work() -> None:
        with Ledger(tmp_path) as mine:
            ends.append(execute(mine, "draws", Inline()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger(tmp_path) as ledger:
        assert payloads(ledger) == whole
    assert [end.left for end in ends] == [0, 0]


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(30, n=2000)) as ledger:
        ((pages,),) = ledger.read("PRAGMA page_count")
        ledger.read(f"PRAGMA max_page_count = {pages + 12}")
        with pytest.raises(ValueError, match="free some space and resume"):
            execute(ledger, "draws", Inline())
        done = ledger.counts("draws")["done"]
        assert 0 < done < 30
        ledger.read("PRAGMA max_page_count = 1000000")
        assert execute(ledger, "draws", Inline()).done == 30
        assert all(entry.attempts == 0 for entry in entries(ledger, "draws"))


def test_workers_that_cannot_start_end_the_run(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add(Plan("nothing", str(tmp_path / "no-model"), draws(2).cells), IDENTITY)
        with pytest.raises(RunBrokenError, match=r"there is no folder .*no-model"):
            execute(ledger, "nothing", Inline())
        libraries = {**IDENTITY["libraries"], "torch": "1.0"}
        ledger.add(draws(2), {**IDENTITY, "libraries": libraries})
        with pytest.raises(RunBrokenError, match=r"torch 2\.\d+ instead of 1\.0; use the same installation"):
            execute(ledger, "draws", Processes(2))
        assert ledger.counts("draws")["todo"] == 2


def test_a_cell_that_asks_whether_it_is_over_stops_at_its_deadline(tmp_path: Path, tiny_folder: str) -> None:
    model = load_model(tiny_folder)
    setup = Setup(tiny_folder, "float32", "cpu", identity_of(model), ())
    worker = Worker(setup, model)
    cell = traces(tiny_folder).cells[0]
    from experiments.kinds import get_kind

    spec = dict(get_kind("trace").complete(cell.spec))
    found = worker.run(0, Task("k", "trace", spec, "g", 0, deadline=-1.0))
    assert asdict(found)["reason"] == "it took longer than its deadline of -1 s"


@kind("slow")
def slow(model: object, spec: Spec, context: Context) -> dict[str, int]:
    """Says what it does, as an edit with a long search would."""
    context.watch.step(0, 20, "searching")
    context.watch.step(spec["step"], 20)
    return {"step": spec["step"]}


def test_a_long_first_cell_tells_its_seconds_and_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TELL_EVERY", 0.0)
    seen: list[Progress] = []
    cells = tuple(Cell("slow", {"step": step}) for step in (3, 4, 5))
    _, ledger = run(tmp_path, Plan("draws", "", cells), Inline(), progress=seen.append)
    ledger.close()
    first = next(now for now in seen if now.stage)
    assert (first.done, first.running, first.rate, first.stage) == (0, 1, None, "searching 0/20")
    assert [now.stage for now in seen if now.stage][1] == "searching 3/20"
    one = next(now for now in seen if now.done == 1)
    assert one.rate is not None
    assert one.seconds_left == pytest.approx(2 / one.rate)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Progress(0, 0, 600, 1, None, None, 84.2, "searching 3/20"), "0/600 done, current cell 84 s (searching 3/20)"),
        (Progress(0, 0, 600, 1, None, None, 3.0), "0/600 done, current cell 3 s"),
        (Progress(2, 1, 600, 1, 0.004, 149250.0, 9, "tracing"), "2/600 done, 1 failed, 250 s a cell, 41:27:30 left, "
         "current cell 9 s (tracing)"),
        (Progress(600, 0, 600, 0, 2.5, 0.0), "600/600 done, 2.50 cells/s, 0:00:00 left"),
    ],
)  # fmt: skip
def test_progress_in_words(now: Progress, words: str) -> None:
    assert line(now) == words


def test_a_partial_export_says_how_much_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    stop = lambda: any(now.done >= 2 for now in seen)  # noqa: E731
    _, ledger = run(tmp_path, draws(5), Inline(), progress=seen.append, stop=stop)
    done = ledger.counts("draws")["done"]
    ledger.close()
    assert 2 <= done < 5
    assert main(["export", "--out", str(tmp_path)]) == 0
    assert f"note: {done} of 5 cells done; the rest is missing here" in capsys.readouterr().err
    with Ledger(tmp_path, create=False) as again:
        execute(again, "draws", Inline())
    assert main(["export", "--out", str(tmp_path)]) == 0
    assert "note:" not in capsys.readouterr().err
