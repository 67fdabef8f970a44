"""Cells on a Ray cluster: an actor for each slot keeps the model, on this machine or on others.

Without an address a cluster is started on this machine and stopped again, with a token only this user can read.  To
join a running cluster, set `RAY_AUTH_MODE=token` and `RAY_AUTH_TOKEN_PATH` alike on every node and here.  A token does
not encrypt: use a private network.  Every node needs the same folder, installation and model as this one; an actor
reports differences when it starts.

Ray restarts nothing by itself: a lost actor is replaced here, and only the cell it was computing counts as failed.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.workers.messages import Broken, Died, Event, Ready, Setup, Task
from experiments.workers.processes import one_thread
from experiments.workers.worker import Worker, pack_event, unpack_event

_STILLBORN = 3
"""Actors in a row that may die before they are ready, before the run is given up."""
MISSING = "Ray is not installed; run `pip install ray==2.60.0`, or use the executor 'processes'"


class RayCluster:
    """Actors on a Ray cluster.

    Args:
        workers: number of actors.
        address: of a running cluster, such as "10.0.0.1:6379"; empty to start one here.
        gpus: for each actor.

    Raises:
        ValueError: if `workers` is not positive.
    """

    name = "ray"

    def __init__(self, workers: int = 2, *, address: str = "", gpus: float = 0.0) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        self.slots, self.address, self.gpus = workers, address, gpus
        self._setup: Setup | None = None
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}
        self._told: dict[int, str] = {}
        self._stillborn = 0
        self._ray: Any = None

    def start(self, setup: Setup) -> None:
        """Join or start the cluster, and start the actors.

        Raises:
            ImportError: if Ray is not installed.
            OSError: if the cluster cannot be reached.
        """
        self._ray = self._connect()
        self._setup = setup
        for slot in range(self.slots):
            self._spawn(slot)

    def submit(self, slot: int, task: Task) -> None:
        """Give a ready slot a cell."""
        self._waiting[self._actors[slot].run.remote(json.dumps(asdict(task)))] = slot

    def wait(self, seconds: float) -> Sequence[Event]:
        """Events since the last call; waits at most `seconds`."""
        answered, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=seconds)
        if answered:  # and whatever else has arrived
            answered, _ = self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
        return [self._answer(reference, self._waiting.pop(reference)) for reference in answered]

    def kill(self, slot: int, reason: str) -> None:
        """Kill a slot's actor now."""
        self._told[slot] = reason
        self._ray.kill(self._actors[slot], no_restart=True)

    def close(self) -> None:
        """Stop the actors, and the cluster if it was started here."""
        if self._ray is not None:
            for actor in self._actors.values():
                self._ray.kill(actor, no_restart=True)
            self._ray.shutdown()
        self._actors, self._waiting = {}, {}

    def _connect(self) -> Any:
        if self.address:
            check_answers(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not self.address and "RAY_AUTH_TOKEN_PATH" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token())
        try:
            import ray
        except ImportError:
            raise ImportError(MISSING) from None
        own: dict[str, Any] = {
            "num_cpus": self.slots,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "object_store_memory": 100 * 2**20,  # results are small, and models stay with their actors
        }
        where = {"address": self.address} if self.address else {"address": "local", **own}
        try:
            ray.init(log_to_driver=False, configure_logging=False, **where)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise OSError(
                f"the Ray cluster {self.address or 'of this machine'} cannot be used: {reason}; check that "
                "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH are the same here and there"
            ) from error
        return ray

    def _spawn(self, slot: int) -> None:
        assert self._setup is not None
        kind = self._ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0, max_task_retries=0)(Actor)
        self._actors[slot] = kind.remote(slot, json.dumps(asdict(self._setup)), 1.0 / self.slots)
        self._waiting[self._actors[slot].ready.remote()] = slot

    def _answer(self, reference: Any, slot: int) -> Event:
        try:
            message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._replaced(slot, error)
        self._stillborn = 0
        if message.startswith(b"!"):
            return Broken(message[1:].decode())
        return unpack_event(message)

    def _replaced(self, slot: int, error: Exception) -> Event:
        told = self._told.pop(slot, "")
        reason = told or f"its Ray actor was lost ({type(error).__name__})"
        self._stillborn += not told
        if self._stillborn > _STILLBORN * self.slots:
            return Broken(f"{self._stillborn} Ray actors in a row were lost before one answered: {error}")
        self._spawn(slot)
        return Died(slot, reason)


@functools.cache
def _own_token() -> Path:
    """A file with the token of this process's clusters, deleted at the end; one for all, since Ray reads it once."""
    folder = Path(tempfile.mkdtemp(prefix="engram-ray-"))  # readable by this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    return token


def check_answers(address: str) -> None:
    """Check that something listens at the address, since Ray itself tries for minutes.

    Raises:
        OSError: if nothing does, naming the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # a name such as "auto", which Ray looks up
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise OSError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); check that it is started there"
        ) from None


class Actor:
    """A worker on a node; takes and returns text and bytes only.

    Args:
        slot: of the executor.
        setup: of `experiments.workers.messages.Setup`, as JSON.
        share: of the node's free memory that it may use.
    """

    def __init__(self, slot: int, setup: str, share: float) -> None:
        self.slot, self.worker, self.problem = slot, None, ""
        one_thread()
        try:
            self.worker = Worker(Setup(**json.loads(setup)), share=share)
        except (ValueError, OSError, ImportError) as error:
            self.problem = f"{error} (on {os.uname().nodename})"

    def ready(self) -> bytes:
        """`Ready`, or "!" and the problem."""
        return pack_event(Ready(self.slot)) if self.worker else b"!" + self.problem.encode()

    def run(self, task: str) -> bytes:
        """Run a cell; returns its event."""
        assert self.worker is not None
        return pack_event(self.worker.run(self.slot, Task(**json.loads(task))))
