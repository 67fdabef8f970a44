"""The trials: what is killed, and how the results compare, bit for bit, with those of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmarks.kills.cells  # noqa: F401 - registers the kinds
from experiments.identity import identity_of
from experiments.kinds import Context, get_kind
from experiments.ledger.ledger import Ledger
from experiments.ledger.payload import encode
from experiments.ledger.records import damaged, entries
from experiments.plan import Cell, Plan
from experiments.plan_files import plan_of
from experiments.runner import Progress, execute
from experiments.workers.inline import Inline
from experiments.workers.messages import Executor
from experiments.workers.processes import Processes
from experiments.workers.ray_cluster import RayCluster

Found = dict[str, Any]
RUN = "draws"


def draws(count: int, **more: Any) -> Plan:
    """Cheap cells without a model."""
    return Plan(RUN, "", tuple(Cell("draw", {"seed": seed, **more}) for seed in range(count)))


def traces(facts: int) -> Plan:
    """Traces of the bundled model: MLP outputs at the last subject token."""
    from models import load_model

    grid = {"kind": "trace", "facts": {"atlas": facts}, "site": ["mlp_out"], "window": 3, "samples": 3}
    grid["positions"] = [["last_subject"]]
    head = {"name": RUN, "model": "reference", "dtype": "float32", "device": "cpu", "grid": [grid]}
    return plan_of(head, load_model("reference"))


def prepare(folder: Path, plan: Plan) -> None:
    """A ledger with the plan."""
    model = None
    if plan.model:
        from models import load_model

        model = load_model(plan.model)
    with Ledger(folder) as ledger:
        ledger.add(plan, identity_of(model))


def payloads(folder: Path) -> list[bytes | None]:
    """Every result of a run."""
    with Ledger(folder) as ledger:
        return [entry.payload for entry in entries(ledger, RUN)]


def undisturbed(folder: Path, plan: Plan) -> list[bytes | None]:
    """The results of a run in this process."""
    prepare(folder, plan)
    with Ledger(folder) as ledger:
        execute(ledger, RUN, Inline())
    return payloads(folder)


def computed(plan: Plan) -> list[bytes | None]:
    """The results of cells without a model, without a ledger."""
    return [encode(get_kind(cell.kind).run(None, cell.spec, Context())) for cell in plan.cells]


def killed_processes(folder: Path, plan: Plan, how: str, kills: int, seed: int = 0, longest: float = 0.3) -> Found:
    """Repeatedly start a process that works on the plan and kill it at a random moment after its first result.

    Args:
        how: of `benchmarks.kills.children`.
        longest: most seconds between its first result and the kill.
    """
    prepare(folder, plan)
    source, told, unreadable, done_before = random.Random(seed), Counter[str](), 0, 0
    workers: set[int] = set()
    for _ in range(kills):
        with _start(how, folder) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline()]
            time.sleep(source.uniform(0, longest))
            done_before += child.poll() is not None
            child.kill()
            lines += child.stdout.readlines()
        _note(lines, told, workers)
        try:
            with Ledger(folder) as ledger:
                ledger.counts(RUN)
        except ValueError:
            unreadable += 1
    with _start(how, folder) as child:
        out, _ = child.communicate()
    _note(out.splitlines(), told, workers)
    expected = computed(plan) if how == "writer" else undisturbed(folder / "undisturbed", plan)
    results = payloads(folder)
    with Ledger(folder) as ledger:
        acknowledged = sum(told.values())
        present = {entry.key for entry in entries(ledger, RUN) if entry.status == "done"}
        repeated = sum(entry.attempts for entry in entries(ledger, RUN))
        ((interrupted,),) = ledger.read("SELECT sum(interrupted) FROM cells")
        return {
            "kills": kills - done_before,
            "cells": len(results),
            "bit-equal": sum(a == b for a, b in zip(results, expected, strict=True)),
            "acknowledged": acknowledged,
            "acknowledged and lost": len(set(told) - present),
            "written twice": sum(count > 1 for count in told.values()),
            "computed again": repeated + interrupted,
            "damaged": len(damaged(ledger, RUN)),
            "unreadable": unreadable,
            "workers left behind": _alive(workers),
        }


def killed_workers(folder: Path, plan: Plan, executor: Executor, kills: int, every: int) -> Found:
    """Kill the worker that answered last, whenever `every` more cells are done."""
    prepare(folder, plan)
    victims: list[int] = []
    latest = [0]
    told = Counter[str]()

    class Watching(Ledger):
        def put(self, key: str, payload: bytes, notes: Mapping[str, Any]) -> bool:
            latest[0] = int(notes.get("pid", notes.get("worker", 0)))
            first = super().put(key, payload, notes)
            told[key] += first
            return first

    def kill(now: Progress) -> None:
        if len(victims) < kills and now.done >= every * (len(victims) + 1) and latest[0] not in (0, *victims):
            victims.append(latest[0])
            os.kill(latest[0], signal.SIGKILL)

    with Watching(folder) as ledger:
        end = execute(ledger, RUN, executor, progress=kill)
        attempts = sum(entry.attempts for entry in entries(ledger, RUN))
    expected, results = undisturbed(folder / "undisturbed", plan), payloads(folder)
    return {
        "kills": len(victims),
        "cells": end.total,
        "bit-equal": sum(a == b for a, b in zip(results, expected, strict=True)),
        "failed": end.failed,
        "written twice": sum(count > 1 for count in told.values()),
        "computed again": attempts,
    }


def poisoned(folder: Path, executor: Executor, cells: int = 396) -> Found:
    """One cell in a hundred raises, kills its worker, hangs or runs out of memory; all others must be unaffected."""
    bad = [Cell("poison", {"how": how}) for how in ("raise", "kill", "hang", "memory")]
    good = list(draws(cells).cells)
    step = len(good) // len(bad)
    mixed = [cell for index, fatal in enumerate(bad) for cell in (fatal, *good[index * step : (index + 1) * step])]
    prepare(folder, Plan(RUN, "", tuple(mixed)))
    with Ledger(folder) as ledger:
        end = execute(ledger, RUN, executor, deadline=2.0)
        rows = list(entries(ledger, RUN))
    expected = undisturbed(folder / "undisturbed", draws(cells))
    results = [entry.payload for entry in rows if entry.kind == "draw"]
    return {
        "cells": end.total,
        "poison": len(bad),
        "poison failed": sum(entry.status == "failed" for entry in rows if entry.kind == "poison"),
        "others failed": sum(entry.status == "failed" for entry in rows if entry.kind == "draw"),
        "bit-equal": sum(a == b for a, b in zip(results, expected, strict=True)),
    }


def same_everywhere(folder: Path, plan: Plan) -> Found:
    """The plan inline, in two processes and on a Ray cluster of two actors."""
    expected = undisturbed(folder / "inline", plan)
    numbers: Found = {"cells": len(expected)}
    executors: dict[str, Executor] = {"processes": Processes(2), "ray": RayCluster(2)}
    for name, executor in executors.items():
        prepare(folder / name, plan)
        with Ledger(folder / name) as ledger:
            execute(ledger, RUN, executor)
        numbers[f"bit-equal in {name}"] = sum(a == b for a, b in zip(payloads(folder / name), expected, strict=True))
    return numbers


def _start(how: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.kills.children", how, str(folder), RUN]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _note(lines: list[str], told: Counter[str], workers: set[int]) -> None:
    for line in lines:
        key, _, pid = line.strip().partition(" ")
        if len(key) == 64 and pid.isdigit():  # a truncated line acknowledges nothing
            told[key] += 1
            workers.add(int(pid))


def _alive(pids: set[int]) -> int:
    """How many of these processes still exist, after a second to notice that their parent ended."""
    time.sleep(1.5)
    return sum(Path(f"/proc/{pid}").exists() for pid in pids if pid)
