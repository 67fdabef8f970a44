"""Rewriting facts: methods that compute an edit, and the view of a model that has it."""

from editing.edit import Diagnostic, Edit, EditCancelled, LossStep, WeightDelta, apply_edits
from editing.registry import METHODS, Method, get_method
from editing.rome import RomeConfig

__all__ = [
    "METHODS",
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
