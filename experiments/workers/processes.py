"""Cells in processes of this machine, with one thread each; a worker that hangs or dies affects only its cell.

Workers are spawned, since a forked copy of a process with threads and an accelerator does not work.  They end when this
process ends, however it ends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.workers.messages import Broken, Died, Event, Ready, Setup, Task
from experiments.workers.worker import Worker, pack_event, unpack_event

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_SPAWN = multiprocessing.get_context("spawn")
_ENDING = 5.0
"""Seconds a worker has to end after it closed its connection."""
_STILLBORN = 3
"""Workers in a row that may die before they are ready, before the run is given up."""


@dataclass
class _Slot:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    closed: bool = False
    """The worker closed its connection: its process has ended or is about to."""
    told: str = ""
    """Why it was killed, if it was."""


class Processes:
    """Worker processes, each with a model of its own.

    Raises:
        ValueError: if `workers` is not positive.
    """

    name = "processes"

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        self.slots = workers
        self._setup: Setup | None = None
        self._live: dict[int, _Slot] = {}
        self._stillborn = 0

    def start(self, setup: Setup) -> None:
        """Start the workers."""
        self._setup = setup
        for slot in range(self.slots):
            self._live[slot] = self._spawn(slot)

    def submit(self, slot: int, task: Task) -> None:
        """Give a ready slot a cell; `wait` reports a worker that has died meanwhile."""
        try:
            self._live[slot].connection.send_bytes(json.dumps(asdict(task)).encode())
        except OSError:
            self._live[slot].closed = True

    def wait(self, seconds: float) -> Sequence[Event]:
        """Events since the last call; waits at most `seconds`."""
        waited: list[Connection | int] = []
        for live in self._live.values():
            waited += [live.connection, live.process.sentinel]
        wait(waited, seconds)
        events: list[Event] = []
        for slot, live in list(self._live.items()):
            alive = live.process.is_alive()  # read first, since a worker may have sent something before it ended
            events += self._received(live)
            if not alive or live.closed:
                events.append(self._buried(slot, live))
        return events

    def kill(self, slot: int, reason: str) -> None:
        """Kill a slot's worker now."""
        self._live[slot].told = reason
        self._live[slot].process.kill()

    def close(self) -> None:
        """Stop every worker."""
        for live in self._live.values():
            live.process.kill()
        for live in self._live.values():
            live.process.join()
            live.connection.close()
        self._live = {}

    @property
    def pids(self) -> dict[int, int]:
        """Slot -> process id, for tests that kill workers."""
        return {slot: live.process.pid for slot, live in self._live.items() if live.process.pid is not None}

    def _received(self, live: _Slot) -> list[Event]:
        events: list[Event] = []
        try:
            while live.connection.poll():
                message = live.connection.recv_bytes()
                if message.startswith(b"!"):
                    return [*events, Broken(message[1:].decode())]
                if not live.ready:
                    live.ready, self._stillborn = True, 0
                events.append(unpack_event(message))
        except (EOFError, OSError):
            live.closed = True
        return events

    def _buried(self, slot: int, live: _Slot) -> Event:
        live.process.join(_ENDING)
        live.process.kill()  # in case it closed its connection and stayed
        live.process.join()
        live.connection.close()
        code = live.process.exitcode or 0
        reason = live.told or f"its worker process died ({signal.Signals(-code).name if code < 0 else f'code {code}'})"
        if not live.ready and not live.told:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                return Broken(f"{self._stillborn} workers in a row died before they were ready: {reason}")
        self._live[slot] = self._spawn(slot)
        return Died(slot, reason)

    def _spawn(self, slot: int) -> _Slot:
        assert self._setup is not None
        ours, theirs = _SPAWN.Pipe()
        arguments = (theirs, slot, asdict(self._setup), 1.0 / self.slots, os.getpid())
        process = _SPAWN.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Slot(process, ours)


def serve(connection: Connection, slot: int, setup: dict[str, object], share: float, parent: int) -> None:
    """The worker process: load the model, send `Ready`, then run cells until the connection is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C in a terminal reaches all processes; the parent decides
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # if memory runs out, the kernel should kill a worker, not the page
        Path("/proc/self/oom_score_adj").write_text("500")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    one_thread()
    try:
        worker = Worker(Setup(**setup), share=share)  # type: ignore[arg-type]  # a dict from asdict
    except (ValueError, OSError, ImportError) as error:
        connection.send_bytes(b"!" + str(error).encode())
        return

    def send(event: Event) -> None:
        connection.send_bytes(pack_event(event))

    try:
        connection.send_bytes(pack_event(Ready(slot)))
        while True:
            task = Task(**json.loads(connection.recv_bytes()))
            connection.send_bytes(pack_event(worker.run(slot, task, send)))
    except (EOFError, OSError):
        return  # the parent has ended


def one_thread() -> None:
    """Limit torch to one thread: workers share the cores, and more threads may sum in another order."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if "torch" in sys.modules:  # otherwise it reads the environment when first imported
        sys.modules["torch"].set_num_threads(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
