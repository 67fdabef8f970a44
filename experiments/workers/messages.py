"""The executor interface, and the messages between the runner and its workers.

An executor has slots.  A slot runs one cell at a time, so that when a worker dies its cell is known.  Only the runner
writes to the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first cell."""

    model: str
    """What `models.load_model` takes; empty for none."""
    dtype: str
    device: str
    identity: dict[str, Any]
    """Of the plan's keys; a worker with another identity refuses to work."""
    modules: tuple[str, ...]
    """Modules that register the kinds of the plan's cells, to be imported."""
    device_map: str = ""
    load: str = ""
    chat: bool = False
    """These three as in `models.options.add_model_options`."""


@dataclass(frozen=True)
class Task:
    """A cell to run."""

    key: str
    kind: str
    spec: dict[str, Any]
    group: str
    halvings: int
    """How often it ran out of memory before."""
    deadline: float | None
    """Limit, seconds."""


@dataclass(frozen=True)
class Ready:
    """A slot's worker has loaded its model and waits for cells."""

    slot: int


@dataclass(frozen=True)
class Finished:
    """A cell's result."""

    slot: int
    key: str
    payload: bytes
    notes: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A cell raised an error; its worker goes on."""

    slot: int
    key: str
    reason: str
    final: bool = False
    """Trying again would not help."""


@dataclass(frozen=True)
class Died:
    """A slot's worker is gone and another is being started; the slot is ready again at the next `Ready`."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Broken:
    """No worker can compute the cells: the model is not the plan's, or cannot be loaded."""

    reason: str


@dataclass(frozen=True)
class Working:
    """What a slot's cell is doing, such as "searching 3/20"; told about once a second."""

    slot: int
    stage: str


Event = Ready | Finished | Failed | Died | Broken | Working
Hear = Callable[[Event], None]
"""Told of events while a cell runs."""


class Executor(Protocol):
    """Runs cells."""

    name: str
    slots: int

    def start(self, setup: Setup) -> None:
        """Start the workers; each slot sends `Ready` when its worker is."""

    def submit(self, slot: int, task: Task) -> None:
        """Give a ready slot a cell; the slot is busy until the cell's event."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """Events since the last call; waits at most `seconds`."""

    def close(self) -> None:
        """Stop every worker."""


@runtime_checkable
class KillingExecutor(Executor, Protocol):
    """An executor whose workers can be stopped in the middle of a cell."""

    def kill(self, slot: int, reason: str) -> None:
        """Kill a slot's worker now; `Died` follows with this reason."""
