"""Processes to be killed: `python -m benchmarks.kills.children writer|inline|processes|ray FOLDER RUN`.

Each prints the key of every result once it is on disk, and `pid N` for every worker it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmarks.kills.cells  # noqa: F401 - registers the kinds
from experiments.kinds import Context, get_kind
from experiments.ledger.ledger import Ledger
from experiments.ledger.owners import owner
from experiments.ledger.payload import encode
from experiments.runner import execute
from experiments.workers.inline import Inline
from experiments.workers.messages import Executor
from experiments.workers.processes import Processes, one_thread
from experiments.workers.ray_cluster import RayCluster


class Telling(Ledger):
    """A ledger that prints every stored result's key."""

    def put(self, key: str, payload: bytes, notes: Mapping[str, Any]) -> bool:
        """As `Ledger.put`; then print."""
        first = super().put(key, payload, notes)
        print(f"{key} {notes.get('pid', 0)}" if first else f"late {key}", flush=True)
        return first


def write(ledger: Ledger, run: str) -> None:
    """Compute cells and store them directly, as fast as possible."""
    context = Context()
    with owner() as me:
        while cells := ledger.lease(run, me, 0, 60):
            for cell in cells:
                ledger.put(cell.key, encode(get_kind(cell.kind).run(None, cell.spec, context)), {})


def main() -> None:
    """Work until no cell is left, or this process is killed."""
    how, folder, run = sys.argv[1:]
    with Telling(Path(folder), create=False) as ledger:
        if how == "writer":
            write(ledger, run)
            return
        one_thread()
        executors: dict[str, Any] = {"inline": Inline, "processes": Processes, "ray": RayCluster}
        executor: Executor = executors[how]()
        execute(ledger, run, executor)


if __name__ == "__main__":
    main()
