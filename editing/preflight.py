"""Warning signs that an edit may break a model, before it is computed and in its result.

Single ROME edits can destroy a model: those whose subject is one token at the very beginning of the prompt, where the
key of the bare prompt is unlike the keys behind contexts, so that the update is divided by almost nothing (Yang et al.
2024, arXiv:2406.11263; Gupta et al. 2024, arXiv:2403.07175).  Only the perplexity of ordinary text settles it, which
`experiments.guard.guarded` measures.
"""

from __future__ import annotations

from collections.abc import Sequence

from editing.edit import Diagnostic, Edit
from facts import EditRequest
from models import LanguageModel, subject_span

LARGE = 1.0
"""Warn if a change is larger than this times the norm of its weight."""
SLANTED = 0.01
"""Warn below this cosine of key and direction."""
SAFER = {"r-rome": "R-ROME", "alphaedit": "AlphaEdit"}
"""Methods that break a model less easily: name -> title."""


def safer_than(method: str) -> str:
    """Titles of the other methods to try if this one breaks a model."""
    return " or ".join(title for name, title in SAFER.items() if name != method)


def before_computing(model: LanguageModel, requests: Sequence[EditRequest], method: str) -> tuple[Diagnostic, ...]:
    """Check the prompts: is a subject a single token at the very beginning?

    Args:
        method: the method that will make the edit; the warning recommends another.

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
    help_text = "Subjects that are one token at the beginning of their prompt."
    return (Diagnostic("first-token subjects", float(len(first)), "requests", help_text, warning),)


def after_computing(model: LanguageModel, edit: Edit) -> tuple[Diagnostic, ...]:
    """Check the change: its size, and the denominator of a rank-one update.

    Args:
        model: the model the edit was computed on.
    """
    diagnostics = []
    sizes = {op.name: op.norm / max(float(model.weight(op.name).double().norm()), 1e-12) for op in edit.weights}
    if sizes:
        name, largest = max(sizes.items(), key=lambda item: item[1])
        warning = ""
        if largest > LARGE:
            layer = " or another layer" if hasattr(edit.config, "layer") else ""
            warning = (
                f"the change of {name} is {largest:.3g} times as large as the weight itself, so the model may be "
                f"broken; undo it, and try {safer_than(edit.method)}{layer}"
            )
        diagnostics.append(Diagnostic("largest change", largest, "|Δ| / |W|", "Over the weights it changes.", warning))
    known = {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics}
    if known.get("key norm") and "denominator" in known:
        cosine = abs(known["denominator"]) / known["key norm"]
        warning = ""
        if cosine < SLANTED:
            warning = (
                f"the update was divided by a number close to 0 (cosine of key and direction {cosine:.2g}), which "
                f"makes it huge; undo it, and try {safer_than(edit.method)}"
            )
        diagnostics.append(Diagnostic("denominator cosine", cosine, "", "Of key and direction.", warning))
    return tuple(diagnostics)
