"""The kind `rewrite`: one edit, and the answers' probabilities before and after; much faster than a full evaluation.

    request      {"fact", "target_new", "probes", ...}, from `facts.records.request_record`
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    rests_on     as in `experiments.cells.edit`

The result has a list of [before, after] for the edit prompt, the paraphrases and the neighbours: the probability of the
new answer, at neighbours of their own true answer.  From these come the scores of Hase et al. 2023, section 4.2
(arXiv:2301.04213), with p before and p* after the edit:

    rewrite, paraphrase    (p* - p) / (1 - p)                      1: the new answer is certain; 0: nothing happened
    neighborhood           1 - |p* - p| / (0.5 + |p - 0.5|)        1: nothing moved
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.cells import edit as edit_cells
from experiments.kinds import Context, check_settings, kind
from experiments.plan import Spec
from facts import EditRequest
from facts.records import read_request

if TYPE_CHECKING:
    from models import LanguageModel

SETTINGS = ("request", "method", "layer", "settings", "rests_on")
SCORES = ("rewrite", "paraphrase", "neighborhood")
Pair = Sequence[float | None]
"""(before, after); None where a broken model gives no finite number."""


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("a rewrite", spec, SETTINGS)
    whole = edit_cells.complete(spec)
    return {name: whole[name] for name in SETTINGS}


@kind(
    "rewrite",
    version=1,
    complete=complete,
    group=edit_cells.by_request,
    estimate_bytes=edit_cells.least_bytes,
)
def rewrite(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Compute the edit, and read the probabilities before and after."""
    from editing import apply_edits
    from metrics.asking.logprobs import score_answers

    edit_cells.check_ground(spec)
    request = read_request(spec["request"])
    questions = _asked(request)
    pairs = [pair for group in questions.values() for pair in group]
    before = context.memo("before", lambda: score_answers(model, pairs))
    made = edit_cells.compute(model, request, spec, context)
    after = score_answers(apply_edits(model, [made]), pairs)
    return {
        "edit_digest": made.digest,
        **{
            score: [[before[pair].probability, after[pair].probability] for pair in group]
            for score, group in questions.items()
        },
    }


def layer_for(method: str, layer: int) -> int | None:
    """The layer for methods without a default layer; None for the others.

    Raises:
        ValueError: if there is no such method.
    """
    from editing import get_method

    knobs = {knob.name: knob for knob in fields(get_method(method).config_type)}
    return layer if "layer" in knobs and knobs["layer"].default is MISSING else None


def trimmed(request: EditRequest, probes: int) -> EditRequest:
    """The request with only its first `probes` paraphrases and neighbours."""
    kept = (*request.of_kind("paraphrase")[:probes], *request.of_kind("neighborhood")[:probes])
    return replace(request, probes=kept, generation_prompts=())


def fewer(request: EditRequest, probes: int) -> EditRequest:
    """The request with only its first `probes` paraphrases and neighbours; its other probes stay."""
    others = (probe for probe in request.probes if probe.kind not in ("paraphrase", "neighborhood"))
    return replace(request, probes=(*trimmed(request, probes).probes, *others))


def scores_of(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The three scores of a result; None where there is no prompt."""
    moved = {"rewrite": moved_towards, "paraphrase": moved_towards, "neighborhood": kept}
    return {name: fmean(map(moved[name], result[name])) if result[name] else None for name in SCORES}


def moved_towards(pair: Pair) -> float:
    """Score of the new answer, (p* - p) / (1 - p); a broken model counts as p* = 0."""
    before, after = pair
    assert before is not None, "the unedited model's numbers are finite"
    return ((after or 0.0) - before) / (1.0 - before) if before < 1.0 else 0.0


def kept(pair: Pair) -> float:
    """Score of a neighbour, 1 - |p* - p| / (0.5 + |p - 0.5|); 0 for a broken model."""
    before, after = pair
    assert before is not None, "the unedited model's numbers are finite"
    return 0.0 if after is None else 1.0 - abs(after - before) / (0.5 + abs(before - 0.5))


def _asked(request: EditRequest) -> dict[str, list[tuple[str, str]]]:
    """(prompt, answer) by score."""
    return {
        "rewrite": [(request.fact.prompt, request.target_new)],
        "paraphrase": [(probe.prompt, probe.answer) for probe in request.of_kind("paraphrase")],
        "neighborhood": [(probe.prompt, probe.answer) for probe in request.of_kind("neighborhood")],
    }
