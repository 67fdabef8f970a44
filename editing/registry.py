"""The methods by name, one line for each, and the one way to make an edit with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editing.applied.view import EditedModel, apply_edits, on_base
from editing.configs import make_config
from editing.edit import Edit
from editing.method import Method
from editing.methods.alphaedit import AlphaEditMethod
from editing.methods.emmet import EmmetMethod
from editing.methods.finetune import ConstrainedMethod, FineTuneMethod, MaskedMethod
from editing.methods.grace import GraceMethod
from editing.methods.in_context import IceMethod, IkeMethod
from editing.methods.kn import KnowledgeNeuronsMethod
from editing.methods.lora import LoraMethod
from editing.methods.memit import MemitMethod
from editing.methods.rome import RomeMethod, RRomeMethod
from editing.methods.trained.ke import KeMethod
from editing.methods.trained.mend import MendMethod
from editing.methods.trained.serac import SeracMethod
from editing.methods.wise import WiseMethod
from facts import EditRequest
from facts.names import unknown
from facts.watch import UNWATCHED, Watch
from models import LanguageModel

DEFAULT_METHOD = "r-rome"
"""The corrected rank-one edit."""

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

_UNITS = dict.fromkeys(("memit", "emmet", "alphaedit", "ft", "ft-l", "ft-m", "lora", "wise"), 2)
REVISIONS = {"grace": 4, "r-rome": 2, **_UNITS}
"""Raise a method's number when it computes something else from the same settings, so that a ledger does not reuse its
old results; 1 for a method that is not listed."""


def revision_of(name: str) -> int:
    """The number of a method's current computation; part of what keys a cell."""
    return REVISIONS.get(name, 1)


def make_edit(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    active: Sequence[Edit] = (),
    watch: Watch = UNWATCHED,
) -> Edit:
    """Compute an edit by a method's name; the model is left bit for bit as it was.

    Args:
        model: the base, or a view that has edits already.
        config: the method's config, or its fields by name.
        active: edits that are in effect besides those in `model`, oldest first; the new one is computed on top of them.

    Returns:
        The edit, as one of the base.

    Raises:
        ValueError: if the method is unknown, a setting is out of range, or a request does not fit the model.
        FileNotFoundError: if the config names a file that is not there.
        Cancelled: if the watch says to stop.
    """
    chosen = get_method(method)
    if isinstance(config, Mapping) or config is None:
        config = make_config(chosen.config_type, config or {})
    if active:
        model = apply_edits(model, active)
    if not isinstance(model, EditedModel):
        return chosen.compute(model, requests, config, watch=watch)
    edited = model if model.edits else model.base  # the base remembers the contexts that were generated for it
    return on_base(chosen.compute(edited, requests, config, active=model.edits, watch=watch), model.base, model.edits)


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    return METHODS[name]
