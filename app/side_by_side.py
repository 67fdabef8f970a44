"""Two sets of edits side by side: what the model says with each, and the five metrics' means over their facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editing import Edit, apply_edits
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from metrics import EditReport, aggregate, evaluate
from metrics.definitions import METRICS, PROMPTED
from models import LanguageModel

SCORES = {f"{name}.{METRICS[name].headline}": METRICS[name].label for name in PROMPTED}
TOKENS = 12


@dataclass(frozen=True)
class Said:
    """One fact that either side rewrites."""

    prompt: str
    wanted: str
    unedited: str
    left: str
    right: str


@dataclass(frozen=True)
class Comparison:
    """Two branches compared on the facts that either of them rewrites."""

    said: tuple[Said, ...]
    scores: tuple[tuple[str, float | None, float | None, float | None, int], ...]
    """(metric, unedited, left, right, facts it is over), each a mean over facts; None where it was not measured."""


def compare(
    model: LanguageModel,
    left: Sequence[Edit],
    right: Sequence[Edit],
    *,
    watch: Watch = UNWATCHED,
) -> Comparison:
    """Evaluate both branches on every fact that one of them rewrites.

    Raises:
        ValueError: if neither holds an edit, or an edit belongs to other weights.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    requests = _requests([*left, *right])
    if not requests:
        raise ValueError("neither branch holds an edit; apply one first")
    sides = (tuple(left), tuple(right))
    reports: tuple[list[EditReport], list[EditReport]] = ([], [])
    steps = 2 * len(requests)
    for step, (side, request) in enumerate((side, request) for side in (0, 1) for request in requests):
        watch.step(step, steps)
        edited, inner = apply_edits(model, sides[side]), Watch(cancelled=watch.cancelled)
        reports[side].append(evaluate(model, edited, request, guard_texts=(), watch=inner))
    prompts = [request.fact.prompt for request in requests]
    texts = [view.generate(prompts, TOKENS) for view in (model, *(apply_edits(model, side) for side in sides))]
    said = tuple(
        Said(request.fact.prompt, request.target_new, *(text[index] for text in texts))
        for index, request in enumerate(requests)
    )
    first, second = (aggregate(reports[side]) for side in (0, 1))
    scores = tuple(
        (label, first[name].before, first[name].value, second[name].value, first[name].n)
        for name, label in SCORES.items()
    )
    return Comparison(said, scores)


def _requests(edits: Sequence[Edit]) -> list[EditRequest]:
    """The requests of the edits, one for each prompt, the last one if there are several."""
    by_prompt = {request.fact.prompt: request for edit in edits for request in edit.requests}
    return list(by_prompt.values())
