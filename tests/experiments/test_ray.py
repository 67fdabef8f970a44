"""A Ray cluster of this machine: the same bits as in this process, and a lost actor is replaced.

In a process of its own, as for a user: Ray keeps threads and settings in the process that starts it.
"""

from __future__ import annotations

import importlib.util
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
