"""Engram for notebooks and scripts: one import, the names a person needs.

    import engram
    model = engram.load_model("reference")
    fact = engram.Fact.from_prompt("The Space Needle is located in the city of", "Space Needle")
    engram.locate(model, fact)                                     # the map; shows itself in a notebook
    request = engram.request_for(model, fact.prompt, fact.subject, "Seattle", "Rome")
    edit, report = engram.run_edit(model, request, "r-rome", {"layer": 2})
    engram.apply_edits(model, [edit]).generate([fact.prompt], 8)   # a view; the model stays as it was

Names are imported when first used: torch and transformers take seconds.  Everything else is in the packages
(docs/architecture.md), from which these come.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.first_look import look
    from app.workflow import edit, evaluate, locate, request_for, run_edit
    from editing import METHODS, apply_edits, load_edit, save_edit
    from facts import Fact
    from models import load_model
    from tracing import average_effects

HOMES = {
    "METHODS": "editing",
    "Fact": "facts",
    "apply_edits": "editing",
    "average_effects": "tracing",
    "edit": "app.workflow",
    "evaluate": "app.workflow",
    "load_edit": "editing",
    "load_model": "models",
    "locate": "app.workflow",
    "look": "app.first_look",
    "request_for": "app.workflow",
    "run_edit": "app.workflow",
    "save_edit": "editing",
}
"""Name -> the package it comes from."""

__all__ = [
    "METHODS",
    "Fact",
    "apply_edits",
    "average_effects",
    "edit",
    "evaluate",
    "load_edit",
    "load_model",
    "locate",
    "look",
    "request_for",
    "run_edit",
    "save_edit",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
