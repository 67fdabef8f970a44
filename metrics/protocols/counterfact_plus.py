"""CounterFact+: neighbours asked right after the new fact is stated, and the divergence of distributions.

Hoelscher-Obermaier et al. 2023 (arXiv:2305.17553).  The edit sentence, "*prompt new answer.*", is put before every
neighbour prompt; success and magnitude are those of `metrics.protocols.comparison`, the divergence is

    NKL = sum_v P_before(v) ln(P_before(v) / P_after(v)),  nats, at the prompt's end

both models reading the same prompt.  Their published code has the divergence the other way round, from P_after, and
divides by the size of the vocabulary (`reduction="batchmean"` on a vector), so its numbers have another scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from facts import Case
from metrics.asking.prompts import Item, items_of
from metrics.asking.scoring import NOT_FINITE
from metrics.drift import kl_divergence
from metrics.protocols.base import Entry, Material, Protocol, Value, gathered
from metrics.protocols.comparison import Question, magnitudes, pairs_of, successes
from metrics.protocols.readings import Needs, Pair, Readings
from metrics.types import Definition

if TYPE_CHECKING:
    from models import LanguageModel


@dataclass(frozen=True)
class CounterFactPlusTask:
    """See the module."""

    case: Case
    material: Material

    def _items(self, kind: str) -> list[Item]:
        return [
            item
            for request in self.case.requests
            for item in items_of(request, self.material.settings)
            if item.kind == kind
        ]

    @property
    def _plain(self) -> list[Question]:
        return [(item.prompt, item.answer, item.other) for item in self._items("neighborhood")]

    @property
    def _prefixed(self) -> list[Question]:
        return [(item.prompt, item.answer, item.other) for item in self._items("neighborhood_prefixed")]

    @property
    def needs(self) -> Needs:
        """Scored answers and next-token distributions."""
        questions = [*self._plain, *self._prefixed]
        return Needs(
            answers=pairs_of(questions), distributions=tuple((prompt, right) for prompt, right, _ in questions)
        )

    @property
    def base_needs(self) -> Needs:
        """The same."""
        return self.needs

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number."""
        plain, prefixed, noun = self._plain, self._prefixed, "neighbour prompts"
        return {
            "NS": successes(plain, before, after, noun),
            "NS+": successes(prefixed, before, after, noun),
            "NM+": magnitudes(prefixed, before, after, noun),
            "NKL": gathered((_divergence((prompt, right), before, after) for prompt, right, _ in plain), noun),
            "NKL+": gathered((_divergence((prompt, right), before, after) for prompt, right, _ in prefixed), noun),
        }


def _divergence(pair: Pair, before: Readings, after: Readings) -> Entry:
    first, second = before.answer(pair), after.answer(pair)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    if first.next_log_probs is None or second.next_log_probs is None:
        return NOT_FINITE
    return 0.0, kl_divergence(first.next_log_probs, second.next_log_probs)


def _prepare(model: LanguageModel, case: Case, material: Material) -> CounterFactPlusTask:
    return CounterFactPlusTask(case, material)


def _share(label: str, sentence: str) -> Definition:
    return Definition(label, "comparison", "share", True, sentence)


def _nats(label: str, sentence: str) -> Definition:
    return Definition(label, "distribution", "nats", False, sentence)


PROTOCOL = Protocol(
    id="counterfact+",
    title="CounterFact+",
    source="Hoelscher-Obermaier et al. 2023 (arXiv:2305.17553)",
    definitions={
        "NS": _share("Neighbours", "Share of neighbours whose own true answer is likelier per token than the new one."),
        "NS+": _share("Neighbours after the new fact", "The same with the edit sentence put before every neighbour."),
        "NM+": Definition(
            "Magnitude after the new fact", "comparison", "probability", True, "Mean P(true) - P(new) per token there."
        ),
        "NKL": _nats("Divergence", "KL of the next-token distribution at the neighbours, before || after."),
        "NKL+": _nats("Divergence after the new fact", "The same with the edit sentence put before every neighbour."),
    },
    headlines={"locality": "NS+"},
    prepare=_prepare,
)
