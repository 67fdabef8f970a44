"""A Ray cluster of this machine: the same bits as in this process, and a lost actor is replaced.

In a process of its own, as for a user: Ray keeps threads and settings in the process that starts it.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.runner import execute
from experiments.workers.inline import Inline
from experiments.workers.ray_cluster import RayCluster
from tests.experiments.made import draws, ledger_of, payloads

SCRIPT = """
import os, signal, sys
from pathlib import Path
import benchmarks.kills.cells
from experiments.ledger.ledger import Ledger
from experiments.workers.ray_cluster import RayCluster
from experiments.ledger.records import entries
from experiments.runner import execute

killed = []
with Ledger(Path(sys.argv[1]), create=False) as ledger:
    def kill(now):
        if now.done >= 5 and not killed:
            pid = next(entry.notes["pid"] for entry in entries(ledger, "draws") if entry.status == "done")
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    print(execute(ledger, "draws", RayCluster(2), progress=kill))
print(killed)
"""


TWO_NODES = """
import sys, time
from pathlib import Path
import benchmarks.kills.cells
from benchmarks.kills.nodes import pids_inside, two_nodes
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.runner import execute
from experiments.workers.ray_cluster import RayCluster

folder, inside = Path(sys.argv[1]), set()
with two_nodes(folder, 1) as address, Ledger(folder, create=False) as ledger:
    import ray  # after the token is set

    ray.init(address, log_to_driver=False, configure_logging=False)
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.2)
    ray.shutdown()
    execute(ledger, "draws", RayCluster(2, address=address), progress=lambda now: inside.update(pids_inside()))
    used = {entry.notes["pid"] for entry in entries(ledger, "draws")}
print("actors inside and outside:", len(used & inside), len(used - inside))
"""


def may_wire() -> bool:
    """Whether this user may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "engram-try"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", "engram-try"], capture_output=True, check=False)
    return made.returncode == 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_nodes_give_the_bits_of_this_process(tmp_path: Path) -> None:
    if not may_wire():
        pytest.skip("this user may not make network namespaces, so there is no second node")
    ledger_of(tmp_path / "ray", draws(60, seconds=0.2)).close()
    command = [sys.executable, "-c", TWO_NODES, str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "actors inside and outside: 1 1" in done.stdout
    with ledger_of(tmp_path / "here", draws(60)) as ledger:
        execute(ledger, "draws", Inline())
        expected = payloads(ledger)
    with Ledger(tmp_path / "ray", create=False) as ledger:
        assert payloads(ledger) == expected


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_actors_give_the_bits_of_this_process_though_one_is_killed(tmp_path: Path) -> None:
    ledger_of(tmp_path / "ray", draws(40, seconds=0.01)).close()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with ledger_of(tmp_path / "here", draws(40, seconds=0.01)) as ledger:
        execute(ledger, "draws", Inline())
        expected = payloads(ledger)
    with Ledger(tmp_path / "ray", create=False) as ledger:
        rows = list(entries(ledger, "draws"))
        assert [entry.payload for entry in rows] == expected
        assert len({entry.notes["pid"] for entry in rows}) >= 2, "the one that was killed, and those that went on"
        assert sum(entry.attempts for entry in rows) <= 1
        assert ledger.working("draws") == []


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with ledger_of(tmp_path, draws(2)) as ledger, pytest.raises(OSError, match=f"answers at 127.0.0.1:{port} "):
        execute(ledger, "draws", RayCluster(2, address=f"127.0.0.1:{port}"))


def test_without_ray_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with ledger_of(tmp_path, draws(2)) as ledger, pytest.raises(ImportError, match="run `pip install ray==2"):
        execute(ledger, "draws", RayCluster(2))
