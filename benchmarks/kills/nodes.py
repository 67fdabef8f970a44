"""A second Ray node in its own network namespace, killed in the middle of a run; for `benchmarks.kills`."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan
from experiments.runner import Progress, execute
from experiments.workers.inline import Inline
from experiments.workers.ray_cluster import RayCluster

SPACE, HERE, THERE, PORT = "engram-node", "10.77.0.1", "10.77.0.2", 6399
_JOINING = 15.0
"""Seconds the second node has to join before actors are placed."""
RAY = str(Path(sys.executable).parent / "ray")


def node_trial(folder: Path) -> dict[str, Any]:
    """Two nodes with two actors each; the second node is killed when a third of the cells is done.

    Raises:
        subprocess.CalledProcessError: if this user may not make network namespaces.
    """
    cells = tuple(Cell("draw", {"seed": seed, "seconds": 0.1}) for seed in range(300))
    plan = Plan("draws", "", cells)
    with Ledger(folder / "alone") as ledger:
        ledger.add(plan, identity_of(None))
        execute(ledger, "draws", Inline())
        expected = [entry.payload for entry in entries(ledger, "draws")]
    times: list[tuple[float, int]] = []
    killed = [0]

    def progress(now: Progress) -> None:
        times.append((time.monotonic(), now.done))
        if now.done >= len(cells) // 3 and not killed[0]:
            killed[0] = _kill_all()

    with two_nodes(folder, 2) as address, Ledger(folder / "nodes") as ledger:
        time.sleep(_JOINING)
        ledger.add(plan, identity_of(None))
        began = time.monotonic()
        end = execute(ledger, "draws", RayCluster(4, address=address), progress=progress)
        seconds = time.monotonic() - began
        rows = list(entries(ledger, "draws"))
    gaps = [(later, after - before) for (before, _), (after, later) in _steps(times)]
    return {
        "cells": end.total,
        "processes killed": killed[0],
        "done": end.done,
        "failed": end.failed,
        "bit-equal": sum(a == b for a, b in zip([entry.payload for entry in rows], expected, strict=True)),
        "computed again": sum(entry.attempts for entry in rows),
        "longest gap (s)": round(max(gap for _, gap in gaps), 1),
        "run (s)": round(seconds, 1),
    }


@contextmanager
def two_nodes(folder: Path, cpus: int) -> Iterator[str]:
    """A Ray cluster of this machine and of a network namespace, with a token of its own; its address.

    Args:
        folder: for the token.
        cpus: actors that fit on each node.

    Raises:
        subprocess.CalledProcessError: if this user may not make network namespaces.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        _wire()
        options = ["--disable-usage-stats", "--num-cpus", str(cpus), "--object-store-memory", str(100 * 2**20)]
        head = ["--head", f"--node-ip-address={HERE}", f"--port={PORT}", "--include-dashboard=false"]
        nodes.append(_node([*head, *options]))
        _wait_for_port()
        joined = [f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}"]
        nodes.append(_node([*joined, *options], inside=True))
        yield f"{HERE}:{PORT}"
    finally:
        _kill_all()
        for node in nodes:  # each with what it started; another cluster on this machine is none of ours
            node.terminate()
            node.wait(30)
        subprocess.run(["ip", "netns", "delete", SPACE], check=False, capture_output=True)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)


def _steps(times: list[tuple[float, int]]) -> list[tuple[tuple[float, int], tuple[float, int]]]:
    """Each pair of moments at which the count rose, from the first result on."""
    risen = [now for before, now in zip([(0.0, 0), *times], times, strict=False) if now[1] > before[1]]
    return list(itertools.pairwise(risen))


def _wire() -> None:
    """The namespace, and a pair of virtual interfaces into it."""
    for command in (
        ["netns", "add", SPACE],
        ["link", "add", "engram0", "type", "veth", "peer", "name", "engram1", "netns", SPACE],
        ["addr", "add", f"{HERE}/24", "dev", "engram0"],
        ["link", "set", "engram0", "up"],
        ["-n", SPACE, "addr", "add", f"{THERE}/24", "dev", "engram1"],
        ["-n", SPACE, "link", "set", "engram1", "up"],
        ["-n", SPACE, "link", "set", "lo", "up"],
    ):
        subprocess.run(["ip", *command], check=True, capture_output=True)


def _node(arguments: list[str], *, inside: bool = False) -> subprocess.Popen[bytes]:
    """A node that ends with all its child processes when its process is stopped."""
    prefix = ["ip", "netns", "exec", SPACE] if inside else []
    command = [*prefix, RAY, "start", "--block", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for_port() -> None:
    for _ in range(240):
        try:
            socket.create_connection((HERE, PORT), timeout=1).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise TimeoutError(f"the head node did not open {HERE}:{PORT} within a minute")


def pids_inside() -> list[int]:
    """The processes of the namespace."""
    listed = subprocess.run(["ip", "netns", "pids", SPACE], check=False, capture_output=True, text=True).stdout
    return list(map(int, listed.split()))


def _kill_all() -> int:
    """Kill every process of the namespace; how many."""
    listed = pids_inside()
    for pid in listed:
        os.kill(pid, signal.SIGKILL)
    return len(listed)
