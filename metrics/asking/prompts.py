"""The prompts by which an edit is judged: the request's probes, and prompts derived from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from facts import Case, EditRequest, Probe
from facts.types import ProbeKind
from facts.words import blank_before
from metrics.types import Settings

LOCALITY_KINDS: tuple[ProbeKind, ...] = ("neighborhood", "same_subject", "forgetfulness", "unchanged")
"""Kinds of probes whose answers an edit should not change."""
PORTABILITY_KINDS: tuple[ProbeKind, ...] = (
    "alias",
    "one_hop",
    "inverse",
    "compositional_2",
    "logical",
    "reasoning",
    "multi_hop",
)
"""Kinds of probes whose answer follows from an edit."""


@dataclass(frozen=True)
class Item:
    """One prompt to measure; fields as in `PromptRow`."""

    metric: str
    kind: str
    prompt: str
    answer: str
    other: str | None
    needs: tuple[tuple[str, str], ...] = ()
    """(prompt, answer) pairs the unedited model must get right, generated freely, or the item is not counted."""
    group: str = ""
    """Items of one group are one test; empty: a test of its own."""
    group_rule: Literal["any", "all"] = "any"


def items_of(request: EditRequest, settings: Settings) -> tuple[Item, ...]:
    """Every prompt of a request, in the order of the report."""
    new, true = request.target_new, request.fact.target_true or None
    return (
        Item("reliability", "edit", request.fact.prompt, new, true),
        *_paraphrases(request, true, settings.distractors),
        *_neighbors(request),
        *_kept(request.probes),
        *_following(request.probes, true),
    )


def items_of_case(case: Case, settings: Settings) -> tuple[Item, ...]:
    """Every prompt of a case: those of each request, then those of all requests together."""
    own = (item for request in case.requests for item in items_of(request, settings))
    return (*own, *_kept(case.probes), *_following(case.probes, None))


def _kept(probes: tuple[Probe, ...]) -> Iterator[Item]:
    """Locality prompts other than neighbours; those need the request."""
    for kind in LOCALITY_KINDS[1:]:
        for probe in probes:
            if probe.kind == kind:
                yield Item("locality", kind, probe.prompt, probe.answer, None, _itself(probe), *_test(probe))


def _following(probes: tuple[Probe, ...], true: str | None) -> Iterator[Item]:
    """Portability prompts; under another name of the subject the old answer is known."""
    for kind in PORTABILITY_KINDS:
        for probe in probes:
            if probe.kind == kind:
                other = true if kind == "alias" else None
                yield Item("portability", kind, probe.prompt, probe.answer, other, probe.bridge, *_test(probe))


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
        # Counted where the model knew the plain neighbour: the value before then shows the effect of the prefix alone.
        said = f"{request.fact.prompt}{blank_before(request.fact.prompt)}{request.target_new}"
        prompt = f"{said}. {probe.prompt}"
        yield Item("locality", "neighborhood_prefixed", prompt, probe.answer, request.target_new, _itself(probe))


def _test(probe: Probe) -> tuple[str, Literal["any", "all"]]:
    return probe.group, probe.group_rule


def _itself(probe: Probe) -> tuple[tuple[str, str], ...]:
    return ((probe.prompt, probe.answer), *probe.bridge)
