"""The edits of a benchmark, with the unedited model's answers to every prompt that judges them, read once for all
methods.  Prompts, gates and scores are those of `metrics.evaluate`, without the variants that no table shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from benchmarks.parts.greedy import Question, Said, ask_all
from facts import EditRequest
from metrics.asking.prompts import Item, items_of
from metrics.drift import kl_divergence
from metrics.types import Settings
from models import LanguageModel

KINDS: dict[str, tuple[str, ...]] = {
    "reliability": ("edit",),
    "generalization": ("paraphrase",),
    "locality_neighborhood": ("neighborhood",),
    "locality_same_relation": ("unchanged",),
    "locality_same_subject": ("same_subject",),
    "locality": ("neighborhood", "unchanged", "same_subject"),
    "portability_alias": ("alias",),
    "portability_one_hop": ("one_hop",),
    "portability_inverse": ("inverse",),
    "portability": ("alias", "one_hop", "inverse"),
}
"""Figure -> the kinds of prompts it is a share of."""

DIVERGENCE: tuple[str, ...] = ("neighborhood", "same_subject")
"""Kinds of prompt at which `metrics` reads the divergence."""


@dataclass(frozen=True, eq=False)
class Case:
    """One edit and the prompts that judge it."""

    request: EditRequest
    items: tuple[Item, ...]
    counted: frozenset[Item]
    """Items that count, since the unedited model knows what they need."""
    before: Mapping[Question, Said]
    """The unedited model's readings, of all cases."""

    @cached_property
    def questions(self) -> dict[Item, Question]:
        """The question of each item."""
        return {item: Question(item.prompt, item.answer, item.other or "") for item in self.items}

    @property
    def local(self) -> list[Question]:
        """Neighbours and other facts of the subject, where the divergence from the unedited model is read."""
        return [question for item, question in self.questions.items() if item.kind in DIVERGENCE]

    def figures(self, model: LanguageModel) -> dict[str, float | None]:
        """A model's shares of `KINDS` and mean divergence (`kl`, nats); None where there is no prompt."""
        said = ask_all(model, list(self.questions.values()), frozenset(self.local))
        right = {item: said[question].right for item, question in self.questions.items() if question in said}
        figures: dict[str, float | None] = {}
        for key, kinds in KINDS.items():
            shares = [right[item] for item in right if item in self.counted and item.kind in kinds]
            figures[key] = fmean(shares) if shares else None
        moved = [
            kl_divergence(before.double(), after.double())
            for question in self.local
            if question in said
            and (before := self.before[question].next_log_probs) is not None
            and (after := said[question].next_log_probs) is not None
        ]
        finite = [value for value in moved if math.isfinite(value)]
        return figures | {"kl": fmean(finite) if finite else None}


def make_cases(
    model: LanguageModel, requests: Sequence[EditRequest], kept: Callable[[Item], bool] = lambda item: True
) -> list[Case]:
    """A case for each request.

    Args:
        kept: selects the items of a request; the edit itself should be among them.
    """
    settings = Settings(distractors=())
    items = {
        request: tuple(
            item for item in items_of(request, settings) if item.kind != "neighborhood_prefixed" and kept(item)
        )
        for request in requests
    }
    gates = {(request, item): _gate(item, request.target_new) for request in requests for item in items[request]}
    bare = [Case(request, items[request], frozenset(), {}) for request in requests]
    local = frozenset(question for case in bare for question in case.local)
    questions = [question for case in bare for question in case.questions.values()]
    before = ask_all(model, [*questions, *(question for gate in gates.values() for question in gate)], local)

    def passes(request: EditRequest, item: Item) -> bool:
        return all(gate in before and before[gate].right for gate in gates[request, item])

    return [
        Case(request, items[request], frozenset(item for item in items[request] if passes(request, item)), before)
        for request in requests
    ]


def _gate(item: Item, target_new: str) -> list[Question]:
    return [Question(prompt, answer, "" if answer == target_new else target_new) for prompt, answer in item.needs]
