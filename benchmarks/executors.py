"""`python -m benchmarks.executors`: the same traces inline, in two processes and on two Ray actors: cells a second.

The rate is taken from the first result to the last, so that loading models and starting a cluster do not count; what
they take is printed beside it.  A machine that does other work as well spoils the rates, not the processor seconds of a
cell (their median): twice the first executor's over another's is the speed-up that two free cores allow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.kills import RUN, payloads, prepare, traces
from experiments.executors import Executor, Inline
from experiments.ledger import Ledger
from experiments.processes import Processes, one_thread
from experiments.ray_cluster import RayCluster
from experiments.records import entries
from experiments.runner import Progress, execute

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "inline": Inline,
    "processes": lambda: Processes(2),
    "ray": lambda: RayCluster(2),
}


def measured(folder: Path, executor: Executor) -> dict[str, Any]:
    """One run: seconds to the first result, and cells a second from there."""
    times: dict[int, float] = {}

    def note(now: Progress) -> None:
        times.setdefault(now.done, time.monotonic())

    began = time.monotonic()
    with Ledger(folder) as ledger:
        execute(ledger, RUN, executor, progress=note)
    first, last = min(done for done in times if done), max(times)
    rate = (last - first) / (times[last] - times[first])
    with Ledger(folder) as ledger:
        processor = [entry.notes["cpu_seconds"] for entry in entries(ledger, RUN)]
    return {
        "to the first result (s)": times[first] - began,
        "cells a second": rate,
        "processor seconds a cell": statistics.median(processor),
    }


def main() -> None:
    """Measure each, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=150, help="traces in all")
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    one_thread()
    plan = traces(options.facts)
    found: dict[str, dict[str, Any]] = {}
    expected = None
    with tempfile.TemporaryDirectory() as place:
        for name in options.executors:
            folder = Path(place) / name
            prepare(folder, plan)
            found[name] = measured(folder, EXECUTORS[name]())
            expected = expected or payloads(folder)
            found[name]["bit-equal"] = sum(a == b for a, b in zip(payloads(folder), expected, strict=True))
            found[name]["x first"] = found[name]["cells a second"] / found[options.executors[0]]["cells a second"]
            if not options.json:
                print(f"{name}: {', '.join(f'{what} {value:.3g}' for what, value in found[name].items())}", flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
