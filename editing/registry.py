"""The methods by name: one line for each."""

from __future__ import annotations

from typing import Any, Protocol

from editing.edit import Cancelled, Edit, Progress
from editing.rome import RomeMethod
from facts import EditRequest
from models import LanguageModel


class Method(Protocol):
    """What every editing method offers."""

    name: str
    config_type: type[Any]
    """A frozen dataclass whose fields carry `help`, `min`, `max` and `choices` as metadata."""

    def compute(
        self,
        model: LanguageModel,
        request: EditRequest,
        config: Any,
        *,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> Edit:
        """The edit, computed and not applied: the model is left bit for bit as it was."""


METHODS: dict[str, Method] = {
    "rome": RomeMethod(),
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]
