"""The methods by name: one line for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from editing.edit import Edit
from editing.methods.alphaedit import AlphaEditMethod
from editing.methods.emmet import EmmetMethod
from editing.methods.finetune import ConstrainedMethod, FineTuneMethod, MaskedMethod
from editing.methods.grace import GraceMethod
from editing.methods.in_context import IceMethod, IkeMethod
from editing.methods.ke import KeMethod
from editing.methods.kn import KnowledgeNeuronsMethod
from editing.methods.lora import LoraMethod
from editing.methods.memit import MemitMethod
from editing.methods.mend import MendMethod
from editing.methods.rome import RomeMethod, RRomeMethod
from editing.methods.serac import SeracMethod
from editing.methods.wise import WiseMethod
from facts import EditRequest
from facts.names import unknown
from facts.watch import UNWATCHED, Watch
from models import LanguageModel

FAMILIES = ("locate-then-edit", "meta-learning", "memory", "in-context", "fine-tuning")
NEEDS = frozenset({"subject", "target_old", "statistics", "trained_editor", "demonstrations"})


class Method(Protocol):
    """What every editing method offers."""

    name: str
    """Key in `METHODS`."""
    title: str
    """As the papers write it."""
    family: str
    """One of `FAMILIES`."""
    config_type: type[Any]
    """A frozen dataclass whose fields carry `help`, `min`, `max` and `choices` as metadata."""
    batch: bool
    """Whether one edit may hold several requests."""
    needs: frozenset[str]
    """What it must be given besides a prompt and a new answer; some of `NEEDS`."""

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: Any,
        *,
        active: Sequence[Edit] = (),
        watch: Watch = UNWATCHED,
    ) -> Edit:
        """The edit, computed and not applied: the model is left bit for bit as it was.

        Args:
            model: the base, or the view of it with the edits in `active`.
            requests: what to rewrite; one, unless `batch`.
            active: the edits that are already in `model`, oldest first.
            watch: told how far it is; its stages are named.

        Raises:
            ValueError: if a request or setting cannot be met; one sentence.
            Cancelled: if `watch` says to stop.
        """


DEFAULT_METHOD = "r-rome"
"""The corrected rank-one edit: what the field starts with, without the mismatch of keys that breaks models."""

METHODS: dict[str, Method] = {
    "r-rome": RRomeMethod(),
    "rome": RomeMethod(),
    "memit": MemitMethod(),
    "emmet": EmmetMethod(),
    "alphaedit": AlphaEditMethod(),
    "kn": KnowledgeNeuronsMethod(),
    "ft": FineTuneMethod(),
    "ft-l": ConstrainedMethod(),
    "ft-m": MaskedMethod(),
    "lora": LoraMethod(),
    "ice": IceMethod(),
    "ike": IkeMethod(),
    "grace": GraceMethod(),
    "wise": WiseMethod(),
    "ke": KeMethod(),
    "mend": MendMethod(),
    "serac": SeracMethod(),
}

REVISIONS = {"grace": 2}
"""Raised whenever a method comes to compute something else from the same settings, so that results kept from before are
not taken for its own; 1 for a method that does not stand here."""


def revision_of(name: str) -> int:
    """Which computation a method's name stands for."""
    return REVISIONS.get(name, 1)


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    return METHODS[name]
