"""The executor that runs cells in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import TYPE_CHECKING

from experiments.workers.messages import Broken, Event, Hear, Ready, Setup, Task
from experiments.workers.worker import Worker

if TYPE_CHECKING:
    from models import LanguageModel


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Limit torch to one thread inside the block, as in every worker."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Inline:
    """Cells in this process, one after another.

    Only kinds that can stop midway observe the deadline.  A cell that kills the process ends the run; the next run
    computes that cell last and finally gives it up.  Torch has one thread, as in every worker: more threads may sum in
    another order.
    """

    model: LanguageModel | None = None
    """A loaded model; by default the plan's model is loaded."""
    name: str = "inline"
    slots: int = 1
    hear: Hear | None = None
    """Told what the cell is doing, since `wait` returns only after it."""
    _worker: Worker | None = None
    _events: list[Event] = field(default_factory=list)
    _task: Task | None = None

    def start(self, setup: Setup) -> None:
        """Load the model if none was given."""
        try:
            self._worker = Worker(setup, self.model)
        except (ValueError, OSError, ImportError) as error:
            self._events.append(Broken(str(error)))
        else:
            self._events.append(Ready(0))

    def submit(self, slot: int, task: Task) -> None:
        """Remember the cell; `wait` runs it."""
        self._task = task

    def wait(self, seconds: float) -> Sequence[Event]:
        """Run the submitted cell, however long it takes."""
        events, self._events = self._events, []
        if self._task is not None and self._worker is not None:
            task, self._task = self._task, None
            with in_one_thread():
                events.append(self._worker.run(0, task, self.hear))
        elif not events:
            sleep(seconds)
        return events

    def close(self) -> None:
        """Release the model."""
        self._worker = None
