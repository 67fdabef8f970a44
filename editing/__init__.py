"""Rewriting facts: methods that compute an edit, and the view of a model that has it."""

from editing.applied.view import apply_edits
from editing.edit import Diagnostic, Edit, LossStep
from editing.files import load_edit, save_edit
from editing.method import Method
from editing.methods.rome import RomeConfig
from editing.ops import DenseDelta, WeightDelta
from editing.registry import METHODS, get_method, make_edit, revision_of

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
    "load_edit",
    "make_edit",
    "revision_of",
    "save_edit",
]
