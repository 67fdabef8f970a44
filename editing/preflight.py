"""Signs that an edit may break a model, seen before it is computed and in what was computed.

Single ROME edits can destroy a model: those whose subject is one token at the very beginning of the prompt, where the
key of the bare prompt is unlike the keys behind contexts, so that the update is divided by almost nothing (Yang et al.
2024, arXiv:2406.11263; Gupta et al. 2024, arXiv:2403.07175).  Perplexity of ordinary text tells in the end; measuring
it needs texts and belongs to whoever applies the edit (`experiments.guard.guarded`).
"""

from __future__ import annotations

from collections.abc import Sequence

from editing.edit import Diagnostic, Edit
from facts import EditRequest
from models import LanguageModel, subject_span

LARGE = 1.0
"""A change above this, times the norm of its weight, replaces the weight rather than edits it."""
SLANTED = 0.01
"""Below this cosine of key and direction the change is inflated a hundred times."""
SAFER = {"r-rome": "R-ROME", "alphaedit": "AlphaEdit"}
"""Methods that break a model less easily, by name; the one just used is never advised."""


def safer_than(method: str) -> str:
    """Titles of the methods to try where this one breaks a model."""
    return " or ".join(title for name, title in SAFER.items() if name != method)


def before_computing(model: LanguageModel, requests: Sequence[EditRequest], method: str) -> tuple[Diagnostic, ...]:
    """What can be told from the prompts alone: subjects of one token at the first place.

    Args:
        method: that is to make the edit; another one is advised.

    Raises:
        ValueError: if a prompt does not fit the model or its tokens hide the subject.
    """
    first = []
    for request in requests:
        span = subject_span(model, request.fact.prompt, request.fact.subject, request.fact.start)
        if len(span) == 1 and span.start <= len(model.lead_ids):
            first.append(request.fact.subject)
    warning = ""
    if first:
        warning = (
            f"the subject {first[0]!r} is a single token at the beginning of its prompt, where keys are unlike those "
            f"inside a text and edits have broken models; prefer {safer_than(method)}, or put words before it"
        )
    help_text = "Subjects of one token at the first place of their prompt."
    return (Diagnostic("first-token subjects", float(len(first)), "requests", help_text, warning),)


def after_computing(model: LanguageModel, edit: Edit) -> tuple[Diagnostic, ...]:
    """What can be told from the change alone: its size, and the denominator a rank-one method divided by.

    Args:
        model: what the edit was computed on.
    """
    found = []
    sizes = {op.name: op.norm / max(float(model.weight(op.name).double().norm()), 1e-12) for op in edit.weights}
    if sizes:
        name, largest = max(sizes.items(), key=lambda item: item[1])
        warning = ""
        if largest > LARGE:
            warning = (
                f"the change of {name} is {largest:.3g} times as large as the weight itself, so the model may be "
                f"broken; undo it, and try {safer_than(edit.method)} or another layer"
            )
        found.append(Diagnostic("largest change", largest, "|Δ| / |W|", "Over the weights it changes.", warning))
    known = {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics}
    if known.get("key norm") and "denominator" in known:
        cosine = abs(known["denominator"]) / known["key norm"]
        warning = ""
        if cosine < SLANTED:
            warning = (
                f"the update was divided by almost nothing (cosine of key and direction {cosine:.2g}), which inflates "
                f"it; undo it, and try {safer_than(edit.method)}"
            )
        found.append(Diagnostic("denominator cosine", cosine, "", "Of key and direction.", warning))
    return tuple(found)
