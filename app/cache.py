"""What all sessions of one server share: the worker, the loaded models, and nothing else."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import streamlit as st

from app.catalog import choices
from app.jobs import Runner

if TYPE_CHECKING:
    from models import LanguageModel

KEPT_MODELS = 2


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
                while len(self._models) > self._kept:
                    self._models.popitem(last=False)
            self._models.move_to_end(name)
            return self._models[name]


@st.cache_resource(show_spinner=False)
def runner() -> Runner:
    """The one worker of this server."""
    return Runner()


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The models this server has loaded."""
    return Shelf()
