"""Rewriting facts: methods that compute an edit, and the view of a model that has it."""

from editing.edit import Diagnostic, Edit, EditCancelled, LossStep
from editing.ops import DenseDelta, WeightDelta
from editing.registry import METHODS, Method, get_method
from editing.rome import RomeConfig
from editing.view import apply_edits

__all__ = [
    "METHODS",
    "DenseDelta",
    "Diagnostic",
    "Edit",
    "EditCancelled",
    "LossStep",
    "Method",
    "RomeConfig",
    "WeightDelta",
    "apply_edits",
    "get_method",
]
