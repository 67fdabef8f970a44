"""A running page with the door of `tests/browser/serve.py` beside it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A running page, and the door its tests have (`tests/browser/serve.py`)."""

    address: str
    door: str

    def ask(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.door}/{what}", timeout=60) as answer:
            return json.load(answer)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No job goes on meanwhile."""
        self.ask("hold")
        try:
            yield
        finally:
            self.ask("release")


@contextmanager
def served(
    folder: Path, command: tuple[str, ...] = ("tests.browser.serve",), port: int = 0, **settings: str
) -> Iterator[Server]:
    """A server of the page.

    Args:
        folder: for its log, its caches and runs.
        command: module and arguments; the tests' own one is told the port of its door.
        port: 0 for a free one.
        settings: variables of its environment.
    """
    free, door = free_ports(2)
    port, own = port or free, (str(door),) if command == ("tests.browser.serve",) else ()
    settings |= {
        "STREAMLIT_SERVER_PORT": str(port),
        "STREAMLIT_SERVER_HEADLESS": "true",
        "OMP_NUM_THREADS": "1",
        "ENGRAM_CACHE": str(folder / "cache"),
        "ENGRAM_RUNS": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
    }
    whole = [sys.executable, "-m", *command, *own]
    with (folder / "server.txt").open("w") as log:
        process = subprocess.Popen(whole, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_healthy(port, process, folder / "server.txt")
            yield Server(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{door}")
        finally:
            process.terminate()
            process.wait(90)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")
