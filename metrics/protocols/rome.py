"""The protocol of ROME and MEMIT: is the new answer more probable than the true one?

Meng et al. 2022, section 3.3 and table 4 (arXiv:2202.05262); Meng et al. 2023, table 2 (arXiv:2210.07229); formulas in
`metrics.protocols.comparison` and `metrics.fluency`:

    ES, EM    success and magnitude of the new answer over the true one after the edit prompt
    PS, PM    the same after the paraphrases
    NS, NM    success and magnitude of a neighbour's own true answer over the new one, after neighbour prompts
    GE        entropy of texts sampled after the generation prompts, 100 tokens with the prompt, top-5 sampling
    RS        similarity of those texts to reference texts about things that have the new answer
    essence   perplexity of the reference texts about the edited subject itself, their first 100 tokens: exp(nll / T),
              where nll is summed over the T - 1 tokens that follow another, as in the authors' `perplexity`
    S         harmonic mean of ES, PS and NS

A case's number is the mean over its prompts, a table's number the mean over cases; S is computed from the table's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facts import Case, EditRequest
from metrics.fluency import Snippet, generation_entropy
from metrics.protocols.base import Entry, Material, Protocol, Value, gathered
from metrics.protocols.comparison import Question, magnitudes, pairs_of, successes
from metrics.protocols.readings import Needs, Readings
from metrics.statistics import perplexity
from metrics.types import Definition

if TYPE_CHECKING:
    from models import LanguageModel

CUT = "a generation prompt does not fit the model"
"""Why a case has no sampled text."""


@dataclass(frozen=True)
class RomeTask:
    """See the module."""

    case: Case
    material: Material

    @property
    def _questions(self) -> dict[str, tuple[str, list[Question]]]:
        """First letter of the score -> (name of the prompts, questions)."""
        edits: list[Question] = []
        paraphrases: list[Question] = []
        neighbors: list[Question] = []
        for request in self.case.requests:
            new, true = request.target_new, request.fact.target_true or None
            edits.append((request.fact.prompt, new, true))
            paraphrases += [(probe.prompt, probe.answer, true) for probe in request.of_kind("paraphrase")]
            neighbors += [(probe.prompt, probe.answer, new) for probe in request.of_kind("neighborhood")]
        return {
            "E": ("edit prompts", edits),
            "P": ("paraphrases", paraphrases),
            "N": ("neighbour prompts", neighbors),
        }

    @property
    def needs(self) -> Needs:
        """Scored answers, sampled texts, and the reference texts about the subjects."""
        return Needs(
            answers=tuple(pair for _, questions in self._questions.values() for pair in pairs_of(questions)),
            texts=tuple(prompt for request in self.case.requests for prompt in request.generation_prompts),
            passages=tuple(text for request in self.case.requests if (text := self._essence(request))),
        )

    @property
    def base_needs(self) -> Needs:
        """The same."""
        return self.needs

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number but S."""
        values = {}
        for letter, (noun, questions) in self._questions.items():
            values[f"{letter}S"] = successes(questions, before, after, noun)
            values[f"{letter}M"] = magnitudes(questions, before, after, noun)
        requests = self.case.requests
        values["GE"] = gathered((e for r in requests for e in entropies(r.generation_prompts, before, after)), "texts")
        values["RS"] = gathered((e for r in requests for e in self._similarities(r, before, after)), "reference texts")
        values["essence"] = gathered(
            (entry for r in requests for entry in self._perplexities(r, before, after)), "texts about the subject"
        )
        return values

    def _similarities(self, request: EditRequest, before: Readings, after: Readings) -> list[Entry]:
        references, prompts, snippets = self.material.references, request.generation_prompts, self._snippets(request)
        if references is None or not snippets or not prompts:
            return []
        numbers = []
        for readings in (before, after):
            texts = [text for prompt in prompts if (text := readings.text(prompt)) is not None]
            if len(texts) < len(prompts):
                return [CUT]
            numbers.append(references.similarity(texts, [snippet.text for snippet in snippets]))
        return [(numbers[0], numbers[1])]

    def _perplexities(self, request: EditRequest, before: Readings, after: Readings) -> list[Entry]:
        text = self._essence(request)
        if not text:
            return []
        (nll_before, n_before), (nll_after, n_after) = before.passage(text), after.passage(text)
        if not n_before or not n_after:
            return ["the text has fewer than two tokens"]
        if n_before != n_after:
            return ["the text does not fit behind the words that the edit puts before a prompt"]
        if not np.isfinite([nll_before, nll_after]).all():
            return ["the edited model gives no finite probability"]
        read = np.array([[nll_before, n_before + 1], [nll_after, n_after + 1]])  # ROME's mean counts the first token
        before_it, after_it = perplexity(read[:, None]).tolist()
        return [(before_it, after_it)]

    def _essence(self, request: EditRequest) -> str:
        snippets = self._snippets(request)
        return " ".join(snippet.text for snippet in snippets if snippet.name == request.fact.subject)

    def _snippets(self, request: EditRequest) -> tuple[Snippet, ...]:
        """The reference texts of the new answer; CounterFact's are stored under its id, which the case keeps."""
        references = self.material.references
        if references is None:
            return ()
        rewrite = self.case.extra.get("requested_rewrite")
        target = rewrite.get("target_new") if isinstance(rewrite, Mapping) else None
        answer = str(target["id"]) if isinstance(target, Mapping) and "id" in target else request.target_new
        return references.of(request.fact.relation, answer)


def entropies(prompts: tuple[str, ...], before: Readings, after: Readings) -> list[Entry]:
    """(before, after) of the entropy of each prompt's sampled text, bits."""
    pairs = [(before.text(prompt), after.text(prompt)) for prompt in prompts]
    return [
        CUT if first is None or second is None else (generation_entropy([first]), generation_entropy([second]))
        for first, second in pairs
    ]


def _prepare(model: LanguageModel, case: Case, material: Material) -> RomeTask:
    return RomeTask(case, material)


def _success(label: str, sentence: str) -> Definition:
    return Definition(label, "comparison", "share", True, sentence)


def _magnitude(label: str, sentence: str) -> Definition:
    return Definition(label, "comparison", "probability", True, sentence)


PROTOCOL = Protocol(
    id="rome",
    title="ROME and MEMIT",
    source="Meng et al. 2022 (arXiv:2202.05262), section 3.3; Meng et al. 2023 (arXiv:2210.07229)",
    definitions={
        "ES": _success(
            "Efficacy", "Share of edit prompts on which the new answer is likelier per token than the true."
        ),
        "EM": _magnitude("Efficacy magnitude", "Mean P(new) - P(true) per token after the edit prompts."),
        "PS": _success("Paraphrases", "Share of paraphrases on which the new answer is likelier per token."),
        "PM": _magnitude("Paraphrase magnitude", "Mean P(new) - P(true) per token after the paraphrases."),
        "NS": _success(
            "Neighbours", "Share of neighbours whose own true answer is likelier per token than the new one."
        ),
        "NM": _magnitude("Neighbour magnitude", "Mean P(true) - P(new) per token after the neighbours."),
        "GE": Definition(
            "Generation entropy", "sampled", "bits", True, "Entropy of bigrams and trigrams of drawn texts."
        ),
        "RS": Definition(
            "Reference score", "sampled", "cosine", True, "Tf-idf cosine of drawn texts and texts on the new answer."
        ),
        "essence": Definition(
            "Essence", "distribution", "perplexity", False, "Perplexity of reference texts about the edited subject."
        ),
        "S": Definition("Score", "comparison", "share", True, "Harmonic mean of ES, PS and NS."),
    },
    headlines={"reliability": "ES", "generalization": "PS", "locality": "NS"},
    prepare=_prepare,
    derived={"S": ("ES", "PS", "NS")},
)
