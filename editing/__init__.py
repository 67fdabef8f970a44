"""Rewriting facts: methods that compute an edit, and the view of a model that has it.

Names are imported when first used, so that `facts.branches` can be had without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.applied.view import apply_edits
    from editing.edit import Diagnostic, Edit, LossStep
    from editing.methods.rome import RomeConfig
    from editing.ops import DenseDelta, WeightDelta
    from editing.registry import METHODS, Method, get_method, revision_of

HOMES = {
    "METHODS": "registry",
    "DenseDelta": "ops",
    "Diagnostic": "edit",
    "Edit": "edit",
    "LossStep": "edit",
    "Method": "registry",
    "RomeConfig": "methods.rome",
    "WeightDelta": "ops",
    "apply_edits": "applied.view",
    "get_method": "registry",
    "revision_of": "registry",
}

__all__ = [
    "METHODS",
    "DenseDelta",
    "Diagnostic",
    "Edit",
    "LossStep",
    "Method",
    "RomeConfig",
    "WeightDelta",
    "apply_edits",
    "get_method",
    "revision_of",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'editing' has no attribute {name!r}")
    return getattr(import_module(f"editing.{HOMES[name]}"), name)
