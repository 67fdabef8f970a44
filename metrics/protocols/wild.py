"""WILD: the greedy continuation up to its natural stop either is the answer or is not.

Yang et al. 2025 (arXiv:2502.11177), `test_prediction_acc_real` of their code: greedy decoding of at most 50 tokens, cut
at the first end of a sentence or line, and an exact match after SQuAD's normalisation (Rajpurkar et al. 2016,
arXiv:1606.05250): lower case, no punctuation, no articles, single spaces.

    match(text, answers) = [norm(text) is one of norm(a), a in answers]        kept = [text_before = text_after]

Answers are the expected one and its other names.  Reliability, generalization and portability are shares of matches;
locality is the share of prompts that both models continue in the same words up to the stop, right or wrong.

Two things differ here.  They stop at every full stop, which cuts "Washington, D.C."; here a full stop ends a sentence
as in `metrics.asking.generation.first_sentence`.  They may use a chat template or a judge; here the prompt is plain
text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facts import Case, Probe
from metrics.asking.prompts import LOCALITY_KINDS, PORTABILITY_KINDS
from metrics.protocols.base import NO_ANSWER, Entry, Material, Protocol, Value, gathered, joined
from metrics.protocols.readings import Needs, Readings
from metrics.types import Definition, Settings

if TYPE_CHECKING:
    from models import LanguageModel

CUT = "the prompt is empty or does not fit the model"
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_normalise(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: SQuAD's `normalize_answer`."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> bool:
    """Whether the text equals one of the answers, both normalised; an empty text never does."""
    said = squad_normalise(text)
    return bool(said) and said in {squad_normalise(answer) for answer in answers}


@dataclass(frozen=True)
class WildTask:
    """See the module."""

    case: Case
    settings: Settings

    @property
    def _edits(self) -> list[Probe]:
        """Each edit prompt, as a probe of its new answer."""
        return [Probe("paraphrase", request.fact.prompt, request.target_new) for request in self.case.requests]

    def _of(self, kinds: Sequence[str]) -> list[Probe]:
        return [probe for probe in self.case.all_probes if probe.kind in kinds]

    @property
    def needs(self) -> Needs:
        """Continuations to a natural stop."""
        probes = [*self._edits, *self._of(("paraphrase", *LOCALITY_KINDS, *PORTABILITY_KINDS))]
        return Needs(stopped=tuple(dict.fromkeys(probe.prompt for probe in probes if probe.prompt.strip())))

    @property
    def base_needs(self) -> Needs:
        """The same."""
        return self.needs

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number."""

        def matching(probes: Sequence[Probe], noun: str) -> Value:
            return gathered(joined(probes, [self._match(probe, before, after) for probe in probes]), noun)

        kept = [_kept(probe, before, after) for probe in self._of(LOCALITY_KINDS)]
        return {
            "reliability": matching(self._edits, "edit prompts"),
            "generalization": matching(self._of(("paraphrase",)), "paraphrases"),
            "locality": gathered(kept, "locality prompts"),
            "portability": matching(self._of(PORTABILITY_KINDS), "portability prompts"),
        }

    def _match(self, probe: Probe, before: Readings, after: Readings) -> Entry:
        if not probe.answer.strip():
            return NO_ANSWER
        text_before, text_after = before.stopped(probe.prompt), after.stopped(probe.prompt)
        if text_before is None or text_after is None:
            return CUT
        answers = (*self.settings.names_of(probe.answer), *probe.aliases)
        return float(exact_match(text_before, answers)), float(exact_match(text_after, answers))


def _kept(probe: Probe, before: Readings, after: Readings) -> Entry:
    text_before, text_after = before.stopped(probe.prompt), after.stopped(probe.prompt)
    return CUT if text_before is None or text_after is None else (1.0, float(text_before == text_after))


def _prepare(model: LanguageModel, case: Case, material: Material) -> WildTask:
    return WildTask(case, material.settings)


def _share(label: str, sentence: str) -> Definition:
    return Definition(label, "greedy", "share", True, sentence)


_MATCH = "whose greedy continuation up to its natural stop is the answer or one of its other names, and nothing else."

PROTOCOL = Protocol(
    id="wild",
    title="WILD",
    source="Yang et al. 2025 (arXiv:2502.11177), its code without a judge model",
    definitions={
        "reliability": _share("Exact match", f"Share of edit prompts {_MATCH}"),
        "generalization": _share("Exact match, paraphrases", f"Share of paraphrases {_MATCH}"),
        "locality": _share("Same words", "Share of locality prompts continued in the same words by both models."),
        "portability": _share("Exact match, portability", f"Share of portability tests {_MATCH}"),
    },
    headlines={metric: metric for metric in ("reliability", "generalization", "locality", "portability")},
    prepare=_prepare,
)
