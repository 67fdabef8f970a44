"""The one door to weights and activations: loading, naming, running and patching a language model.

Nothing outside this package imports transformers or nnsight.
"""

from models.architectures import EDITABLE_FAMILIES, FAMILIES, Architecture, as_out_in
from models.generation import Sampling
from models.interventions import Run, Site, run, run_batched
from models.language_model import LanguageModel
from models.load import load_model
from models.tokens import Span, count_occurrences, join, pad, subject_span, target_ids

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
    "count_occurrences",
    "join",
    "load_model",
    "pad",
    "run",
    "run_batched",
    "subject_span",
    "target_ids",
]
