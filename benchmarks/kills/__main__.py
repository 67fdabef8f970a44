"""`python -m benchmarks.kills`: are results lost, written twice or changed when something is killed, full or damaged?

Prints one line per trial, JSON with --json.  Every trial compares its results, bit for bit, with those of an
undisturbed run.  docs/experiments.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.kills.disks import disk_trial, flip_trial
from benchmarks.kills.nodes import node_trial
from benchmarks.kills.trials import Found, draws, killed_processes, killed_workers, poisoned, same_everywhere, traces
from experiments.workers.processes import Processes, one_thread
from experiments.workers.ray_cluster import RayCluster


def trials(quick: bool) -> dict[str, Callable[[Path], Found]]:
    """The trials by name."""
    kills, writers = (4, 10) if quick else (20, 300)
    named: dict[str, Callable[[Path], Found]] = {
        "writer": lambda folder: killed_processes(folder, draws(40 * writers), "writer", writers, longest=0.1),
        "controller, inline": lambda folder: killed_processes(
            folder, draws(60 * kills, seconds=0.005), "inline", kills
        ),
        "controller, processes": lambda folder: killed_processes(
            folder, draws(60 * kills, seconds=0.01), "processes", kills
        ),
        "worker, processes": lambda folder: killed_workers(
            folder, draws(20 * kills, seconds=0.01), Processes(2), kills, 10
        ),
        "poison, processes": lambda folder: poisoned(folder, Processes(2)),
        "disk": lambda folder: disk_trial(folder, 4 if quick else 20),
        "flips": lambda folder: flip_trial(folder, 50 if quick else 1000),
    }
    if not quick:
        named |= {
            "controller, ray": lambda folder: killed_processes(folder, draws(400, seconds=0.02), "ray", 3, longest=1.0),
            "worker, ray": lambda folder: killed_workers(folder, draws(400, seconds=0.01), RayCluster(2), 20, 15),
            "poison, ray": lambda folder: poisoned(folder, RayCluster(2)),
            "node, ray": node_trial,
            "traces, controller": lambda folder: killed_processes(folder, traces(300), "processes", 20, longest=1.0),
            "traces, everywhere": lambda folder: same_everywhere(folder, traces(20)),
        }
    return named


def main() -> None:
    """Run the trials and print their numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few kills, no Ray and no model: about a minute")
    parser.add_argument("--only", nargs="+", default=[], help="names of trials, or their beginnings")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    options = parser.parse_args()
    one_thread()
    results = {}
    for name, trial in trials(options.quick).items():
        if options.only and not any(name.startswith(wanted) for wanted in options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            results[name] = trial(Path(folder)) | {"seconds": round(time.monotonic() - began, 1)}
        if not options.json:
            print(f"{name}: {', '.join(f'{what} {value}' for what, value in results[name].items())}", flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
