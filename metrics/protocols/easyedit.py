"""The protocol of EasyEdit: the share of an answer's tokens that are most probable, given the tokens before them.

Wang et al. 2023 (arXiv:2308.07269), `evaluate/evaluate_utils.py` and `editors/editor.py` of zjunlp/EasyEdit.  With x
the token ids of "*prompt answer*", tokenised together, p the number of tokens of the prompt alone, g = argmax(logits):

    accuracy(prompt, answer) = mean(g[p-1:-1] == x[p:])              rewrite, rephrase, portability
    agreement(prompt, answer) = mean(g_before[p-1:-1] == g_after[p-1:-1])                  locality

The model reads the answer's tokens whatever it would have said, and an answer partly right counts in part.  Locality
does not use the answer's meaning, only its length and its tokens as a prefix; without an answer it is not measured.
Only the first paraphrase of an edit is asked.  Prompts of locality and portability are averaged by kind, and the
overall number is the mean over kinds, as in KnowEdit.  Fluency is the entropy of one text sampled after the edit prompt
(`metrics.fluency`).

Rows here are padded on the right, so that a score does not depend on its batch; EasyEdit pads on the left without
position ids, which shifts the learned positions of models like GPT-2.  EasyEdit drops an answer without tokens
silently; here it is counted as left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facts import Case, Probe
from metrics.asking.logprobs import Forced
from metrics.asking.prompts import LOCALITY_KINDS, PORTABILITY_KINDS
from metrics.protocols.base import NO_ANSWER, Entry, Material, Protocol, Value, gathered, overall
from metrics.protocols.readings import Needs, Pair, Readings
from metrics.protocols.rome import entropies
from metrics.types import Definition

if TYPE_CHECKING:
    from models import LanguageModel


@dataclass(frozen=True)
class EasyEditTask:
    """See the module."""

    case: Case

    @property
    def _edits(self) -> list[Pair]:
        return [(request.fact.prompt, request.target_new) for request in self.case.requests]

    @property
    def _rephrases(self) -> list[Pair]:
        firsts = [request.of_kind("paraphrase")[:1] for request in self.case.requests]
        return [(probe.prompt, probe.answer) for first in firsts for probe in first]

    def _probes(self, kinds: Sequence[str]) -> dict[str, list[Probe]]:
        by_kind = {kind: [probe for probe in self.case.all_probes if probe.kind == kind] for kind in kinds}
        return {kind: probes for kind, probes in by_kind.items() if probes}

    @property
    def needs(self) -> Needs:
        """Scored answers, tokenised together with their prompt, and a sampled text for each edit prompt."""
        probes = self._probes((*LOCALITY_KINDS, *PORTABILITY_KINDS))
        pairs = [(probe.prompt, probe.answer) for group in probes.values() for probe in group if probe.answer.strip()]
        prompts = tuple(request.fact.prompt for request in self.case.requests)
        return Needs(joint=(*self._edits, *self._rephrases, *pairs), texts=prompts)

    @property
    def base_needs(self) -> Needs:
        """The same."""
        return self.needs

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number; those of kinds of prompts that were not given are not measured."""

        def read(pairs: Sequence[Pair], measure: Measure, noun: str) -> Value:
            return gathered((_entry(pair, before, after, measure) for pair in pairs), noun)

        values = {
            "rewrite_acc": read(self._edits, _accuracy, "edit prompts"),
            "rephrase_acc": read(self._rephrases, _accuracy, "paraphrases"),
        }
        for metric, kinds, measure in (
            ("locality", LOCALITY_KINDS, _agreement),
            ("portability", PORTABILITY_KINDS, _accuracy),
        ):
            probes = self._probes(kinds)
            by_kind = {
                kind: read([(p.prompt, p.answer) for p in probes.get(kind, [])], measure, f"{kind} prompts")
                for kind in kinds
            }
            values[metric] = overall(list(by_kind.values()), f"{metric} prompts")
            values |= {f"{metric}.{kind}_acc": value for kind, value in by_kind.items()}
        prompts = tuple(request.fact.prompt for request in self.case.requests)
        return values | {"ngram_entropy": gathered(entropies(prompts, before, after), "texts")}


Measure = Callable[[Forced, Forced], tuple[float, float]]


def _entry(pair: Pair, before: Readings, after: Readings, measure: Measure) -> Entry:
    if not pair[1].strip():
        return NO_ANSWER
    first, second = before.joint(pair), after.joint(pair)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    return measure(first, second)


def _accuracy(before: Forced, after: Forced) -> tuple[float, float]:
    return _equal(before.predicted, before.tokens), _equal(after.predicted, after.tokens)


def _agreement(before: Forced, after: Forced) -> tuple[float, float]:
    return 1.0, _equal(before.predicted, after.predicted)


def _equal(first: Sequence[int], second: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _prepare(model: LanguageModel, case: Case, material: Material) -> EasyEditTask:
    return EasyEditTask(case)


def _share(label: str, sentence: str) -> Definition:
    return Definition(label, "teacher-forced", "share", True, sentence)


_ACCURACY = "Mean share of the answer's tokens that are the most probable ones given those before them, over"
_AGREEMENT = "Mean share of places of the answer at which the most probable token is the same before and after, over"

PROTOCOL = Protocol(
    id="easyedit",
    title="EasyEdit",
    source="Wang et al. 2023 (arXiv:2308.07269), its code; Yao et al. 2023 (arXiv:2305.13172)",
    definitions={
        "rewrite_acc": _share("Rewrite accuracy", f"{_ACCURACY} edit prompts."),
        "rephrase_acc": _share("Rephrase accuracy", f"{_ACCURACY} the first paraphrase of each edit."),
        "locality": _share("Locality", f"{_AGREEMENT} each kind of locality prompts; the mean over kinds."),
        **{
            f"locality.{kind}_acc": _share(f"Locality, {kind}", f"{_AGREEMENT} {kind} prompts.")
            for kind in LOCALITY_KINDS
        },
        "portability": _share("Portability", f"{_ACCURACY} each kind of portability prompts; the mean over kinds."),
        **{
            f"portability.{kind}_acc": _share(f"Portability, {kind}", f"{_ACCURACY} {kind} prompts.")
            for kind in PORTABILITY_KINDS
        },
        "ngram_entropy": Definition(
            "Fluency", "sampled", "bits", True, "Entropy of bigrams and trigrams of a text drawn after the edit prompt."
        ),
    },
    headlines={
        "reliability": "rewrite_acc",
        "generalization": "rephrase_acc",
        "locality": "locality",
        "portability": "portability",
    },
    prepare=_prepare,
)
