"""The methods by name: one line for each."""

from __future__ import annotations

from editing.method import Method
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
from facts.names import unknown

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
