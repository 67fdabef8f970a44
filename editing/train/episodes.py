"""Episodes: what the learned editors train on.  One builder for KE, MEND and SERAC.

An episode asks for one edit, in one template, and says what must follow (the same fact in other templates) and what
must stay (other facts, most of them of the same relation).  Paraphrases stand in the outer loss, as in MEND (Mitchell
et al. 2022, section 3.2, arXiv:2110.11309); new objects are drawn from the relation's range, as in CounterFact (Meng et
al. 2022, appendix D); same-relation facts are the hard negatives of SERAC (Mitchell et al. 2022, arXiv:2206.06520).

Subjects are split once and for all by a hash, so that no edit of a test subject, and no fact about one, is ever seen
in training or in choosing the best editor.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from editing.train.forward import greedy_right
from facts import EditRequest
from facts.atlas import Atlas, AtlasFact
from models import LanguageModel

Split = Literal["train", "validation", "test"]
LocalityKind = Literal["same_relation", "same_subject", "random"]
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.7), ("validation", 0.1), ("test", 0.2))
"""Share of the subjects in each split."""
SPLIT_SEED = 0
HELD_OUT_OBJECTS = 0.1
"""Share of each relation's objects that are never an edit's target in training."""
BYSTANDERS: dict[Split, tuple[Split, ...]] = {
    "train": ("train",),
    "validation": ("train", "validation"),
    "test": ("train", "validation", "test"),
}
"""Split -> the splits whose facts an edit of this split must not change.  Among a tenth of the subjects hardly two
share an object, so validation among them alone would be too easy."""
HARD = 0.85
"""Share of the same-relation prompts that stand in the edit's own template, and of those whose subject shares its true
object: edits spill over to these most easily."""
FEWEST_OBJECTS = 2
"""Fewest targets of a relation that stay in training."""

FactKey = tuple[str, str]
"""(subject, relation)"""


def split_of(subject: str, seed: int = SPLIT_SEED) -> Split:
    """The split of a subject: a function of its name and the seed alone, so it survives changes of the atlas."""
    point, edge = _hash_share(f"{seed}|{subject}"), 0.0
    for split, share in SHARES:
        edge += share
        if point < edge:
            return split
    return "test"


def training_objects(atlas: Atlas, relation: str, seed: int = SPLIT_SEED) -> tuple[str, ...]:
    """The objects of a relation that may be an edit's target in training; the others test new objects."""
    ranked = sorted(atlas.range_of(relation), key=lambda target: _hash_share(f"{seed}|{relation}|{target}"))
    kept = max(FEWEST_OBJECTS, round(len(ranked) * (1 - HELD_OUT_OBJECTS)))
    return tuple(ranked[:kept])


def _hash_share(text: str) -> float:
    """A number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Kept:
    """A prompt whose answer the edit must not change."""

    kind: LocalityKind
    prompt: str
    answer: str


@dataclass(frozen=True)
class Episode:
    """One edit with the prompts it must change and those it must not."""

    request: EditRequest
    paraphrases: tuple[str, ...]
    """Prompts that should give `request.target_new` after the edit; the edit prompt is not among them."""
    locality: tuple[Kept, ...]


def known_facts(model: LanguageModel, facts: Iterable[AtlasFact], atlas: Atlas) -> frozenset[FactKey]:
    """The facts that the model answers greedily in at least half of every other training template of their relation."""
    asked = [
        (fact, template.replace("{}", fact.subject))
        for fact in facts
        for template in atlas.relations[fact.relation].templates[::2]
    ]
    right = greedy_right(model, [(prompt, fact.object) for fact, prompt in asked])
    counts: dict[FactKey, list[bool]] = defaultdict(list)
    for (fact, _), answered in zip(asked, right, strict=True):
        counts[fact.subject, fact.relation].append(answered)
    return frozenset(key for key, answers in counts.items() if 2 * sum(answers) >= len(answers))


class Episodes:
    """Draws episodes about the subjects of one split.

    Args:
        known: facts the model knows; only they are edited, and only they are asked to stay.
        paraphrases, locality: how many prompts of each an episode has.
        prefixed: probability that a paraphrase stands behind a sentence about something else.
        by_relation: whether every relation is edited alike, however few facts it has; else every fact.

    Raises:
        ValueError: if the split holds too few known facts to draw from.
    """

    def __init__(
        self,
        atlas: Atlas,
        split: Split,
        known: Collection[FactKey],
        *,
        paraphrases: int = 2,
        locality: int = 4,
        prefixed: float = 0.2,
        by_relation: bool = True,
    ) -> None:
        self.atlas, self.split = atlas, split
        self.n_paraphrases, self.n_locality, self.prefixed = paraphrases, locality, prefixed
        self.by_relation = by_relation
        self.own_words = self.sharing = HARD
        self.facts = [
            fact for fact in atlas.facts if split_of(fact.subject) == split and (fact.subject, fact.relation) in known
        ]
        self.editable = [fact for fact in self.facts if not fact.contains_answer and self._targets(fact)]
        if len({fact.subject for fact in self.editable}) < 2:
            raise ValueError(
                f"the model knows only {len(self.editable)} facts of the {split} subjects; train it on the atlas first"
            )
        self._of_relation: dict[str, list[AtlasFact]] = defaultdict(list)
        self._of_subject: dict[str, list[AtlasFact]] = defaultdict(list)
        self._bystanders = [
            fact
            for fact in atlas.facts
            if split_of(fact.subject) in BYSTANDERS[split] and (fact.subject, fact.relation) in known
        ]
        for fact in self._bystanders:
            self._of_relation[fact.relation].append(fact)
            self._of_subject[fact.subject].append(fact)

    def of_any_subject(self) -> Episodes:
        """A copy whose same-relation prompts are about any subject of the relation, half of them in the edit's
        words."""
        other = copy.copy(self)
        other.own_words, other.sharing = 0.5, 0.0
        return other

    def draw(self, source: random.Random, n: int) -> list[Episode]:
        """`n` episodes about different facts; no edited fact is among the facts that must stay.

        Raises:
            ValueError: if there are fewer than `n` facts to edit.
        """
        if n > len(self.editable):
            raise ValueError(f"{n} edits were asked for, but the {self.split} subjects have {len(self.editable)} facts")
        edited = self._alike(source)[:n] if self.by_relation else source.sample(self.editable, n)
        taken = {(fact.subject, fact.relation) for fact in edited}
        return [self._episode(source, fact, taken) for fact in edited]

    def _alike(self, source: random.Random) -> list[AtlasFact]:
        """The facts to edit, in random order, cycling through the relations."""
        turns: dict[str, int] = defaultdict(int)
        order: list[tuple[int, float, AtlasFact]] = []
        for fact in source.sample(self.editable, len(self.editable)):
            order.append((turns[fact.relation], source.random(), fact))
            turns[fact.relation] += 1
        return [fact for _, _, fact in sorted(order, key=lambda entry: entry[:2])]

    def _episode(self, source: random.Random, fact: AtlasFact, taken: Collection[FactKey]) -> Episode:
        relation = self.atlas.relations[fact.relation]
        template = source.choice(relation.templates)
        request = EditRequest(self.atlas.as_fact(fact, template), source.choice(self._targets(fact)))
        others = [other for other in relation.templates if other != template]
        source.shuffle(others)
        if self.split != "train":  # one wording that no editor was trained with, then the others
            others = [source.choice(relation.held_out_templates), *others]
        paraphrases = tuple(
            self._prefix(source, fact) + other.replace("{}", fact.subject) for other in others[: self.n_paraphrases]
        )
        kinds = _kinds(self.n_locality)
        return Episode(request, paraphrases, tuple(self.kept(source, fact, template, kind, taken) for kind in kinds))

    def _targets(self, fact: AtlasFact) -> list[str]:
        """Objects that would be false of the subject."""
        relation = fact.relation
        pool = training_objects(self.atlas, relation) if self.split == "train" else self.atlas.range_of(relation)
        true = {other.object for other in self.atlas.about(fact.subject)}
        return [target for target in pool if target not in true]

    def _prefix(self, source: random.Random, fact: AtlasFact) -> str:
        """At random either nothing or a true sentence about another subject."""
        if source.random() >= self.prefixed:
            return ""
        other = source.choice(self._bystanders)
        if other.subject == fact.subject:
            return ""
        words = source.choice(self.atlas.relations[other.relation].templates).replace("{}", other.subject)
        return f"{words} {other.object}. "

    def kept(
        self, source: random.Random, fact: AtlasFact, template: str, kind: LocalityKind, taken: Collection[FactKey]
    ) -> Kept:
        """A known fact that an edit of `fact`, made in `template`, must not change.

        Of the same-relation prompts, `own_words` stand in the edit's own template, and of their subjects `sharing`
        share its true object, where there are such; a subject with one fact gives a same-relation prompt for a
        same-subject one.
        """

        def free(facts: Sequence[AtlasFact]) -> list[AtlasFact]:
            return [other for other in facts if (other.subject, other.relation) not in taken]

        if kind == "same_subject":
            own = free([other for other in self._of_subject[fact.subject] if other.relation != fact.relation])
            if own:
                return self._asked(source, source.choice(own), "same_subject", "")
        if kind != "random":
            same = free([other for other in self._of_relation[fact.relation] if other.subject != fact.subject])
            sharing = [other for other in same if other.object == fact.object]
            if same:
                chosen = source.choice(sharing if sharing and source.random() < self.sharing else same)
                return self._asked(source, chosen, "same_relation", template)
        return self._asked(source, source.choice(free(self._bystanders) or self._bystanders), "random", "")

    def _asked(self, source: random.Random, fact: AtlasFact, kind: LocalityKind, template: str) -> Kept:
        if not template or source.random() >= self.own_words:
            template = source.choice(self.atlas.relations[fact.relation].templates)
        return Kept(kind, template.replace("{}", fact.subject), fact.object)


def _kinds(n: int) -> list[LocalityKind]:
    """Half of the same relation; the rest alternates between the same subject and any fact."""
    pattern: tuple[LocalityKind, ...] = ("same_relation", "same_subject", "same_relation", "random")
    return [pattern[index % len(pattern)] for index in range(n)]
