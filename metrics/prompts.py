"""Which prompts an edit is judged by: the request's probes, and the forms derived from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from facts import EditRequest, Probe
from metrics.types import Metric, RowKind, Settings


@dataclass(frozen=True)
class Item:
    """One prompt to measure; fields as in `PromptRow`."""

    metric: Metric
    kind: RowKind
    prompt: str
    answer: str
    other: str | None
    needs: tuple[tuple[str, str], ...] = ()
    """(prompt, answer) pairs the unedited model must get right, generated freely, or the item is not counted."""


def items_of(request: EditRequest, settings: Settings) -> tuple[Item, ...]:
    """Every prompt of a request, in the order of the report."""
    new, true = request.target_new, request.fact.target_true or None
    return (
        Item("reliability", "edit", request.fact.prompt, new, true),
        *_paraphrases(request, true, settings.distractors),
        *_neighbors(request),
        *(
            Item("locality", "same_subject", probe.prompt, probe.answer, None, _itself(probe))
            for probe in request.of_kind("same_subject")
        ),
        *(Item("portability", "alias", p.prompt, p.answer, true, p.bridge) for p in request.of_kind("alias")),
        *(Item("portability", "one_hop", p.prompt, p.answer, None, p.bridge) for p in request.of_kind("one_hop")),
        *(Item("portability", "inverse", p.prompt, p.answer, None, p.bridge) for p in request.of_kind("inverse")),
    )


def _paraphrases(request: EditRequest, true: str | None, distractors: tuple[str, ...]) -> Iterator[Item]:
    probes = request.of_kind("paraphrase")
    for probe in probes:
        yield Item("generalization", "paraphrase", probe.prompt, probe.answer, true, probe.bridge)
    for index, probe in enumerate(probes if distractors else ()):
        prompt = f"{distractors[index % len(distractors)]} {probe.prompt}"
        yield Item("generalization", "paraphrase_prefixed", prompt, probe.answer, true, probe.bridge)


def _neighbors(request: EditRequest) -> Iterator[Item]:
    probes = request.of_kind("neighborhood")
    for probe in probes:
        yield Item("locality", "neighborhood", probe.prompt, probe.answer, request.target_new, _itself(probe))
    for probe in probes:
        # Counted where the model knew the plain neighbour, so that the value before shows what the prefix alone does.
        prompt = f"{request.fact.prompt} {request.target_new}. {probe.prompt}"
        yield Item("locality", "neighborhood_prefixed", prompt, probe.answer, request.target_new, _itself(probe))


def _itself(probe: Probe) -> tuple[tuple[str, str], ...]:
    return ((probe.prompt, probe.answer), *probe.bridge)
