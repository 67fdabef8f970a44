"""The kind `scored`: one edit and what it does to answers and to ordinary text, read in few passes.  Settings:

    request      {"fact", "target_new", "probes", ...}, from `facts.records.request_record`
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    texts        documents of the bundled corpus whose perplexity is read
    rests_on     as in `experiments.cells.edit`

An answer counts where each of its tokens is the model's most probable one after those before it.  The result has a list
of 0 and 1 for the edit prompt (`reliability`), the paraphrases (`paraphrase`) and those neighbours and other facts that
the unedited model answers (`neighborhood`), and the ratio of the perplexities with and without the edit.  A method that
refuses the fact at this layer gives `refused`, its reason, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.cells import edit as edit_cells
from experiments.kinds import Context, check_settings, kind
from experiments.plan import Spec
from facts import EditRequest
from facts.records import read_request
from facts.types import ProbeKind

if TYPE_CHECKING:
    from metrics.asking.logprobs import Forced
    from models import LanguageModel

SETTINGS = ("request", "method", "layer", "settings", "texts", "rests_on")
KEPT: tuple[ProbeKind, ...] = ("neighborhood", "unchanged")
"""Kinds of probes whose answer an edit must not change."""


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("a scored edit", spec, SETTINGS)
    whole = edit_cells.complete(spec)
    return {name: whole[name] for name in SETTINGS}


@kind("scored", version=1, complete=complete, group=edit_cells.by_request, estimate_bytes=edit_cells.least_bytes)
def scored(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Compute the edit, and ask the model with it."""
    from editing import apply_edits

    edit_cells.check_ground(spec)
    request = read_request(spec["request"])
    try:
        made = edit_cells.compute(model, request, spec, context)
    except ValueError as error:
        return {"refused": str(error)}
    edited = apply_edits(model, [made])
    return {**answered(model, edited, request), "perplexity_ratio": perplexity_ratio(model, edited, spec["texts"])}


def answered(model: LanguageModel, edited: LanguageModel, request: EditRequest) -> dict[str, list[int]]:
    """0 or 1 for each prompt of the edit, its paraphrases and the neighbours that the unedited model answers.

    Raises:
        ValueError: if a prompt does not fit the model.
    """
    from metrics.asking.logprobs import score_answers

    kept = [(probe.prompt, probe.answer) for kind in KEPT for probe in request.of_kind(kind)]
    before = score_answers(model, kept)
    asked = {
        "reliability": [(request.fact.prompt, request.target_new)],
        "paraphrase": [(probe.prompt, probe.answer) for probe in request.of_kind("paraphrase")],
        "neighborhood": [pair for pair in kept if _said(before[pair])],
    }
    after = score_answers(edited, [pair for pairs in asked.values() for pair in pairs])
    return {name: [int(_said(after[pair])) for pair in pairs] for name, pairs in asked.items()}


def perplexity_ratio(model: LanguageModel, edited: LanguageModel, texts: int) -> float | None:
    """Perplexity of that many ordinary texts with the edit over that without; None without a text or where the edited
    model gives no finite number."""
    from experiments.guard import ordinary_texts
    from metrics.sequence import text_perplexity

    documents = ordinary_texts(texts) if texts else []
    room = min(model.max_positions, edited.max_positions)
    before, after = (text_perplexity(each, documents, room) for each in (model, edited))
    return None if before is None or after is None else after / before


def _said(reading: Forced) -> bool:
    return reading.predicted == reading.tokens
