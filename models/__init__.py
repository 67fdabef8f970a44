"""Language models: loading, names of their parts, running and patching them.

Nothing outside this package imports transformers or nnsight.  Names are imported when first used, so that
`models.options` and `models.sources.catalogue` can be had without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.architectures import EDITABLE_FAMILIES, FAMILIES, Architecture, as_out_in
    from models.forwards.answer import own_answer
    from models.forwards.interventions import Run, Site, run, run_batched
    from models.generation import Sampling
    from models.language_model import LanguageModel
    from models.sources.load import load_model
    from models.text.tokens import (
        Span,
        fits,
        join,
        notes_on,
        pad,
        subject_span,
        target_ids,
        tokens_together,
    )

HOMES = {
    "EDITABLE_FAMILIES": "architectures",
    "FAMILIES": "architectures",
    "Architecture": "architectures",
    "LanguageModel": "language_model",
    "Run": "forwards.interventions",
    "Sampling": "generation",
    "Site": "forwards.interventions",
    "Span": "text.tokens",
    "as_out_in": "architectures",
    "fits": "text.tokens",
    "join": "text.tokens",
    "load_model": "sources.load",
    "notes_on": "text.tokens",
    "own_answer": "forwards.answer",
    "pad": "text.tokens",
    "run": "forwards.interventions",
    "run_batched": "forwards.interventions",
    "subject_span": "text.tokens",
    "target_ids": "text.tokens",
    "tokens_together": "text.tokens",
}

__all__ = [
    "EDITABLE_FAMILIES",
    "FAMILIES",
    "Architecture",
    "LanguageModel",
    "Run",
    "Sampling",
    "Site",
    "Span",
    "as_out_in",
    "fits",
    "join",
    "load_model",
    "notes_on",
    "own_answer",
    "pad",
    "run",
    "run_batched",
    "subject_span",
    "target_ids",
    "tokens_together",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(f"models.{HOMES[name]}"), name)
