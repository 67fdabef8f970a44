"""What all sessions of one server share: the worker, the loaded models, computed edits by their keys, and uploads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app.catalog import choices
from app.jobs import Runner
from app.uploads import Uploads

if TYPE_CHECKING:
    from editing import Edit
    from models import LanguageModel

KEPT_MODELS = 2
KEPT_EDIT_BYTES = 2**30


class Shelf:
    """Loaded models by name, the last used ones kept; called by the worker, so nobody waits for it on the page."""

    def __init__(self, kept: int = KEPT_MODELS) -> None:
        self._models: OrderedDict[str, LanguageModel] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept

    def get(self, name: str) -> LanguageModel:
        """The model, loaded once.

        Raises:
            ValueError: if the name is not on the list of models the server allows.
        """
        from models import load_model

        with self._lock:
            if name not in self._models:
                offered = choices()
                if name not in offered:
                    raise ValueError(f"the model {name!r} is not offered here; choose from {', '.join(offered)}")
                self._models[name] = load_model(offered[name].source)
                self._models[name].name = name  # a folder's path is nobody's business
                while len(self._models) > self._kept:
                    self._models.popitem(last=False)
            self._models.move_to_end(name)
            return self._models[name]


class Drawer:
    """Computed edits by the keys of their jobs.  Jobs are soon forgotten; an edit is kept while others build on it."""

    def __init__(self, kept_bytes: int = KEPT_EDIT_BYTES) -> None:
        self._edits: OrderedDict[str, Edit] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept_bytes

    def put(self, key: str, edit: Edit) -> None:
        """Keep an edit; the ones used longest ago go when there are too many."""
        with self._lock:
            self._edits[key] = edit
            self._edits.move_to_end(key)
            while len(self._edits) > 1 and sum(kept.n_bytes for kept in self._edits.values()) > self._kept:
                self._edits.popitem(last=False)

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
        found = [edit for key in keys if (edit := self.get(key)) is not None]
        if len(found) < len(keys):
            raise ValueError("an earlier edit is not kept any more; undo the edits and apply them again")
        return found


@st.cache_resource(show_spinner=False)
def runner() -> Runner:
    """The one worker of this server."""
    return Runner()


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The models this server has loaded."""
    return Shelf()


@st.cache_resource(show_spinner=False)
def drawer() -> Drawer:
    """The edits this server has computed."""
    return Drawer()


@st.cache_resource(show_spinner=False)
def uploads() -> Uploads:
    """The files readers have handed in."""
    return Uploads()
