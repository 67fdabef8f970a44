"""Runs cells in any process: loads the model, checks memory and deadline, and turns errors into failures."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any

from experiments.identity import differences, identity_of
from experiments.kinds import Context, get_kind
from experiments.ledger.leases import OUT_OF_MEMORY
from experiments.ledger.payload import ResultTooLargeError, encode
from experiments.memory import MemoryRefusedError, check_fits
from experiments.plan import canonical
from experiments.workers.messages import Event, Failed, Finished, Hear, Ready, Setup, Task, Working
from facts.watch import Watch
from models.options import load_as
from models.settings import LoadSettings

if TYPE_CHECKING:
    from models import LanguageModel


TELL_EVERY = 1.0
"""Seconds between two words of what a cell is doing."""


class Worker:
    """A loaded model that runs cells one after another.

    Args:
        setup: what to load.
        model: used in place of loading one.
        share: of this machine's free memory that it may use.

    Raises:
        ValueError: if the model or a library is not that of the plan's keys.
        FileNotFoundError: if there is no such model.
    """

    def __init__(self, setup: Setup, model: LanguageModel | None = None, share: float = 1.0) -> None:
        for module in setup.modules:
            importlib.import_module(module)
        if model is None and setup.model:
            model = load(setup)
        changes = differences(setup.identity, identity_of(model))
        if changes:
            raise ValueError(
                f"the run was planned for something else: {', '.join(changes)}; "
                "use the same installation and model, or run the plan under another name"
            )
        self.model = model
        self.context = Context(share=share)

    def run(self, slot: int, task: Task, hear: Hear | None = None) -> Event:
        """The cell's result, or why it failed; an error of a kind fails the cell, not the worker.

        Args:
            hear: told what the cell is doing.
        """
        began, cpu = monotonic(), process_time()

        def over() -> bool:
            return task.deadline is not None and monotonic() - began > task.deadline

        self.context.enter(task.group, task.halvings, Watch(_teller(slot, hear) if hear else None, over))
        try:
            kind = get_kind(task.kind)
            if self.model is not None:
                check_fits(self.model, kind, task.spec, self.context.share)
            result = kind.run(self.model, task.spec, self.context)
            payload = encode(result)
            canonical(self.context.notes)  # notes that are no JSON fail this cell and do not stop the run
        except (MemoryRefusedError, ResultTooLargeError) as error:
            return Failed(slot, task.key, str(error), final=True)
        except Exception as error:  # any error fails this cell only
            if over():
                return Failed(slot, task.key, f"it took longer than its deadline of {task.deadline:g} s")
            return Failed(slot, task.key, _sentence(error))
        notes = self.context.notes | {"seconds": monotonic() - began, "cpu_seconds": process_time() - cpu}
        return Finished(slot, task.key, payload, notes)


def _teller(slot: int, hear: Hear) -> Callable[[int, int, str], None]:
    """A `Watch.tell` that passes the stage and its count on, about once a second."""
    told, now = monotonic(), {"stage": "", "count": ""}

    def tell(done: int, of: int, stage: str) -> None:
        nonlocal told
        now["stage"] = stage or now["stage"]
        now["count"] = f"{done}/{of}" if of else now["count"]
        if monotonic() - told >= TELL_EVERY:
            told = monotonic()
            hear(Working(slot, f"{now['stage']} {now['count']}".strip()))

    return tell


def _sentence(error: Exception) -> str:
    """The error in one line; where it was raised is added unless its message is meant for users."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text:
        return text if text.startswith(OUT_OF_MEMORY) else f"{OUT_OF_MEMORY}: {text}"
    if isinstance(error, ValueError | OSError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({last.name}, line {last.lineno})"


def load(setup: Setup) -> LanguageModel:
    """The model a setup names.

    Raises:
        ValueError, FileNotFoundError: as `models.options.load_from`.
    """
    settings = LoadSettings(setup.device, setup.dtype, setup.device_map, setup.load)
    return load_as(setup.model, settings, setup.chat)


# ---- messages between processes: JSON and bytes, never pickle


def pack_event(event: Event) -> bytes:
    """An event as bytes: a line of JSON, then the payload."""
    values: dict[str, Any] = {"event": type(event).__name__, **asdict(event)}
    payload = values.pop("payload", b"")
    return json.dumps(values).encode() + b"\n" + payload


def unpack_event(message: bytes) -> Event:
    """The inverse of `pack_event`."""
    head, _, payload = message.partition(b"\n")
    values = json.loads(head)
    name = values.pop("event")
    if name == "Finished":
        return Finished(payload=payload, **values)
    return {"Ready": Ready, "Failed": Failed, "Working": Working}[name](**values)
