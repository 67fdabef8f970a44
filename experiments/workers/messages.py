"""What every executor offers, and the one that runs cells in this process.

An executor has slots.  A slot runs one cell at a time, so that when a worker dies it is known which cell it died of;
the runner alone writes to the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """What the keys were made with; a worker that finds another refuses to work."""
    modules: tuple[str, ...]
    """To be imported, since they register the kinds of the plan's cells."""
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
    """Seconds it may take."""


@dataclass(frozen=True)
class Ready:
    """A slot's worker has its model and waits for cells."""

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
    """A cell raised; its worker goes on."""

    slot: int
    key: str
    reason: str
    final: bool = False
    """Trying again would be no use."""


@dataclass(frozen=True)
class Died:
    """A slot's worker is gone, and another is being started; the slot is not ready before that says so."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Broken:
    """No worker can do the work: the model is another than the plan's, or cannot be loaded."""

    reason: str


Event = Ready | Finished | Failed | Died | Broken


class Executor(Protocol):
    """Where cells are run."""

    name: str
    slots: int

    def start(self, setup: Setup) -> None:
        """Start the workers; each slot says `Ready` when it is."""

    def submit(self, slot: int, task: Task) -> None:
        """Give a ready slot a cell; it is busy until its event comes."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """What happened, at the latest after so many seconds."""

    def close(self) -> None:
        """Stop every worker."""


@runtime_checkable
class KillingExecutor(Executor, Protocol):
    """One whose workers can be stopped in the middle of a cell."""

    def kill(self, slot: int, reason: str) -> None:
        """Stop a slot's worker now; `Died` follows with this reason."""
