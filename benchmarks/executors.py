"""`python -m benchmarks.executors`: the same traces inline, in two processes and on two Ray actors: cells a second.

The traces are cut into rounds.  In each round every executor computes the same traces, in rotating order, so that a
changing load affects all alike.  The rate counts from the moment when all of an executor's workers are busy to its last
result; the start-up before that (loading models, starting a cluster) is printed separately.  The exit code is 1 if
results are not bit-equal.

Other work on the machine affects the rates, not the processor seconds of a cell.  By default an executor
has 600 traces of the bundled model in three rounds, over 60 processor seconds of work; on two free cores all of it
takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.kills.trials import RUN, prepare, traces
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Plan
from experiments.runner import execute
from experiments.workers.inline import Inline
from experiments.workers.messages import Executor
from experiments.workers.processes import Processes, one_thread
from experiments.workers.ray_cluster import RayCluster

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "inline": Inline,
    "processes": lambda: Processes(2),
    "ray": lambda: RayCluster(2),
}


@dataclass(frozen=True)
class Round:
    """One executor's share of a round."""

    startup: float
    """Seconds until all workers are busy."""
    rate: float
    """Cells a second after that."""
    processor: tuple[float, ...]
    """Processor seconds of each cell."""
    payloads: tuple[bytes | None, ...]
    """Every result."""


def measured(folder: Path, plan: Plan, executor: Executor) -> Round:
    """Compute the plan in a new ledger."""
    prepare(folder, plan)
    with Ledger(folder) as ledger:
        began = time.time()
        execute(ledger, RUN, executor)
        finished = list(entries(ledger, RUN))
    spans = [(entry.finished - entry.notes["seconds"], entry.finished) for entry in finished]
    start = all_at_work(spans, executor.slots)
    counted = [end for begin, end in spans if begin >= start]
    return Round(
        startup=start - began,
        rate=len(counted) / (max(counted) - start),
        processor=tuple(_processor(entry) for entry in finished),
        payloads=tuple(entry.payload for entry in finished),
    )


def all_at_work(spans: Sequence[tuple[float, float]], workers: int) -> float:
    """The first moment at which that many cells are computed at once.

    Args:
        spans: (begin, end) of each cell, in seconds.

    Raises:
        ValueError: if there is none, because there are too few cells.
    """
    for moment, _ in sorted(spans):
        if sum(begin <= moment < end for begin, end in spans) >= workers:
            return moment
    raise ValueError(f"{len(spans)} cells were never {workers} at once; give more --facts")


def summary(name: str, rounds: Sequence[Round], first: Sequence[Round]) -> dict[str, float | str]:
    """An executor's rounds as numbers; `first` are the rounds of the executor it is compared with."""
    ratios = [own.rate / theirs.rate for own, theirs in zip(rounds, first, strict=True)]
    spent = [seconds for own in rounds for seconds in own.processor]
    return {
        "executor": name,
        "cells": len(spent),
        "start-up (s)": statistics.median(own.startup for own in rounds),
        "cells a second": statistics.median(own.rate for own in rounds),
        "x first": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "processor seconds in all": sum(spent),
        "processor seconds a cell": statistics.median(spent),
        "bit-equal": sum(
            a == b
            for own, theirs in zip(rounds, first, strict=True)
            for a, b in zip(own.payloads, theirs.payloads, strict=True)
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each executor and print; returns 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=600, help="traces for each executor, in all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    one_thread()
    whole = traces(options.facts)
    names = options.executors
    done: dict[str, list[Round]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            plan = replace(whole, cells=whole.cells[number :: options.rounds])
            for turn in range(len(names)):
                name = names[(number + turn) % len(names)]
                done[name].append(measured(Path(place) / f"{name}{number}", plan, EXECUTORS[name]()))
                print(f"round {number + 1}: {name}: {done[name][-1].rate:.2f} cells/s", file=sys.stderr, flush=True)
    lines = [summary(name, done[name], done[names[0]]) for name in names]
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        for line in lines:
            numbers = [f"{what} {value:.3g}" for what, value in line.items() if not isinstance(value, str)]
            print(f"{line['executor']}: {', '.join(numbers)}")
    return 0 if all(line["bit-equal"] == line["cells"] for line in lines) else 1


def _processor(entry: Entry) -> float:
    return float(entry.notes["cpu_seconds"])


if __name__ == "__main__":
    sys.exit(main())
