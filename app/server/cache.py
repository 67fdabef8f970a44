"""What all sessions of one server share: the worker, the loaded models, computed edits by their keys, and uploads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from app.server import catalog, limits, monitoring, presence
from app.server.catalog import Choice
from app.server.jobs import DEADLINES, Runner
from app.server.pace import Paces
from app.server.uploads import Uploads
from facts.watch import UNWATCHED, Watch
from models.options import load_as

if TYPE_CHECKING:
    from editing import Edit
    from models import LanguageModel

T = TypeVar("T")
KEPT_MODELS = 2
KEPT_EDIT_BYTES = 2**30
MEMORY_SHARE = 1.2
"""A model takes this times its weights while it is loaded."""
LEAST_MEMORY = 256 * 2**20
"""Bytes that must be free before a job begins."""


@dataclass
class _Place:
    """One model, loaded or being loaded; its lock is held while it loads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    model: LanguageModel | None = None
    reader: LanguageModel | None = None
    digest: str = ""
    """Of the weights, when they were first checked."""
    changed: bool = False
    """The weights are not what they were then."""
    chats: dict[int, LanguageModel] = field(default_factory=dict)
    """id of a model -> the same one asked in its chat template."""

    def asked(self, model: LanguageModel, key: str) -> LanguageModel:
        """The model, asked in its chat template if the key says so."""
        if not key.endswith(catalog.CHAT):
            return model
        if id(model) not in self.chats:
            self.chats[id(model)] = model.as_chat()
        return self.chats[id(model)]


class Shelf:
    """Loaded models by key (`Choice.key`), the last used ones kept; called by workers, so the page waits for none."""

    def __init__(self, kept: int = KEPT_MODELS) -> None:
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept
        self.loads = 0
        """How many models were loaded so far."""

    def get(self, key: str, watch: Watch = UNWATCHED) -> LanguageModel:
        """The model, loaded once.

        Raises:
            ValueError: if the name is not on the list of models the server allows, the model cannot be loaded, or its
                weights have changed since.
        """
        place = self._place(key)
        if place.changed:
            raise ValueError(
                f"the weights of {key!r} in memory are not what was loaded, so its numbers would be wrong; start the "
                "server again"
            )
        with place.lock:
            if place.model is None:
                watch.step(0, 0, "reading the model, once")
                place.model = _load(key)
                self.loads += 1
                place.reader = place.model.view()
        _check_room()
        return place.asked(place.model, key)

    def loaded(self, key: str) -> LanguageModel | None:
        """The model if it is loaded, without waiting."""
        with self._lock:
            key = key.removesuffix(catalog.CHAT)
            return self._places[key].model if key in self._places else None

    def reader(self, key: str, watch: Watch = UNWATCHED) -> LanguageModel:
        """The same model as a view with a separate lock, so that reading a prompt does not wait for a trace."""
        place = self._place(key)
        model = self.get(key.removesuffix(catalog.CHAT), watch)
        return place.asked(place.reader or model, key)

    def models(self) -> list[LanguageModel]:
        """The loaded models."""
        with self._lock:
            return [place.model for place in self._places.values() if place.model is not None]

    def check_weights(self) -> None:
        """Hash every loaded model's weights and compare with the first time; edits are views and write to none."""
        with self._lock:
            places = [(place, place.model) for place in self._places.values() if place.model is not None]
        for place, model in places:
            digest = model.weights_digest()
            place.digest = place.digest or digest
            place.changed = place.digest != digest

    def changed(self) -> list[str]:
        """Keys of the models whose weights have changed in memory."""
        with self._lock:
            return [key for key, place in self._places.items() if place.changed]

    def forget_held(self) -> None:
        """Forget models with a held lock: a thread that hangs does not let go of it, so the model is loaded anew."""
        with self._lock:
            for key, place in list(self._places.items()):
                models = [place.model, place.reader, *place.chats.values()]
                locks = [place.lock, *(model.lock for model in models if model is not None)]
                if not all(map(_is_free, locks)):
                    del self._places[key]

    def _place(self, key: str) -> _Place:
        with self._lock:
            key = key.removesuffix(catalog.CHAT)
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > self._kept:
                self._places.popitem(last=False)
            return place


def _is_free(lock: Any) -> bool:
    """Whether nobody holds a lock."""
    free: bool = lock.acquire(blocking=False)
    if free:
        lock.release()
    return free


def _load(key: str) -> LanguageModel:
    choice = catalog.choice_of(key)
    _check_memory(choice)
    try:
        model = load_as(choice.source, choice.settings)
    except (ValueError, OSError) as error:  # do not show the server's path
        raise ValueError(str(error).replace(choice.place, choice.name)) from error
    model.name = choice.name
    return model


def _check_memory(choice: Choice) -> None:
    """Refuse a model that does not fit, by the headers of its files, before the kernel ends the process for all.

    Raises:
        ValueError: naming what it needs and what is free.
    """
    import torch

    from experiments.memory import free_bytes
    from models.sources.folder import n_parameters

    if torch.cuda.is_available() or not Path(choice.place).is_dir():
        return
    width = getattr(torch, choice.settings.dtype).itemsize
    needed, free = MEMORY_SHARE * n_parameters(Path(choice.place)) * width, free_bytes(torch.device("cpu"))
    if needed > free:
        raise ValueError(
            f"{choice.shown} needs about {needed / 2**30:.1f} GB of memory as {choice.settings.dtype} and "
            f"{free / 2**30:.1f} are free; choose a smaller model or number format"
        )


def _check_room() -> None:
    """Refuse a job where hardly any memory is free.

    Raises:
        ValueError: if so.
    """
    import torch

    from experiments.memory import free_bytes

    if (free := free_bytes(torch.device("cpu"))) < LEAST_MEMORY:
        raise ValueError(
            f"only {free / 2**20:.0f} MB of memory are free, too little for a job; try later, or with fewer samples"
        )


class Drawer:
    """Computed edits by the keys of their jobs.  An edit is kept longer than its job, since others build on it."""

    def __init__(self, kept_bytes: int = KEPT_EDIT_BYTES) -> None:
        self._edits: OrderedDict[str, Edit] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept_bytes

    def put(self, key: str, edit: Edit) -> None:
        """Keep an edit; drop the least recently used ones when they take too much memory."""
        with self._lock:
            self._edits[key] = edit
            self._edits.move_to_end(key)
            while len(self._edits) > 1 and sum(kept.n_bytes for kept in self._edits.values()) > self._kept:
                self._edits.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Memory of the edits."""
        with self._lock:
            return sum(edit.n_bytes for edit in self._edits.values())

    def get(self, key: str) -> Edit | None:
        """The edit, if it is still kept."""
        with self._lock:
            if key in self._edits:
                self._edits.move_to_end(key)
            return self._edits.get(key)

    def all(self, keys: Sequence[str]) -> list[Edit]:
        """Several edits, in order.

        Raises:
            ValueError: if one is not kept any more.
        """
        edits = [edit for key in keys if (edit := self.get(key)) is not None]
        if len(edits) < len(keys):
            raise ValueError("an earlier edit was dropped to free memory; undo the edits and apply them again")
        return edits


class Shared(Generic[T]):
    """One object for all sessions, made when it is first asked for.

    Not `st.cache_resource`: any visitor can send the message that clears Streamlit's caches.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._made = make, list[T]()
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """The object."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]

    def clear(self) -> None:
        """Forget it; for tests."""
        with self._lock:
            self._made.clear()


shelf = Shared(Shelf)
"""The models this server has loaded."""
paces = Shared(Paces)
"""How fast this server traces each model."""
drawer = Shared(Drawer)
"""The edits this server has computed."""
uploads = Shared(Uploads)
"""The files readers have uploaded."""
runner = Shared(
    lambda: Runner(
        present=presence.is_here,
        deadlines=DEADLINES | {"long": limits.longest_job()},
        stuck=lambda: shelf().forget_held(),
        ended=monitoring.job_ended,
    )
)
"""The worker threads of this server and their jobs."""
