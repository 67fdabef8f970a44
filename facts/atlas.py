"""The bundled atlas: true, generally known facts in CSV files, with the prompts that ask for them.

`facts/atlas/` holds `places.csv`, `people.csv` and `works.csv` (relation, subject, object, held_out, contains_answer),
`relations.csv`, `templates.csv`, `aliases.csv` and `pronouns.csv`.  The reference model is never trained on a fact
marked `held_out` in its relation's held-out templates, so those prompts measure generalization.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from facts.types import Fact

ATLAS_FOLDER = Path(__file__).parent / "atlas"
FACT_FILES = ("places.csv", "people.csv", "works.csv")


@dataclass(frozen=True)
class Relation:
    """One relation and the templates that ask for it; every template holds one `{}` for the subject."""

    name: str
    subject_type: str
    object_type: str
    question: str
    phrase: str
    """A noun phrase for the object, such as "the city where the {} stands"; used to compose two relations."""
    unique_inverse: bool
    inverse_template: str
    """Asks for the subject, given the object in `{}`; empty unless the object determines the subject."""
    templates: tuple[str, ...]
    held_out_templates: tuple[str, ...]

    @property
    def all_templates(self) -> tuple[str, ...]:
        """Every paraphrase, the training ones first."""
        return self.templates + self.held_out_templates


@dataclass(frozen=True)
class AtlasFact:
    """One row of the atlas."""

    relation: str
    subject: str
    object: str
    held_out: bool
    """Never seen with the relation's held-out templates in training."""
    contains_answer: bool
    """The subject contains the answer, as in "Mexico City"."""


@dataclass(frozen=True)
class Chain:
    """Two facts; the first one's object is the second one's subject."""

    first: AtlasFact
    second: AtlasFact


@dataclass(frozen=True)
class Atlas:
    """All facts, relations, aliases and pronouns."""

    facts: tuple[AtlasFact, ...]
    relations: dict[str, Relation]
    aliases: dict[str, tuple[str, ...]]
    pronouns: dict[str, str]

    @cached_property
    def _by_subject(self) -> dict[str, dict[str, AtlasFact]]:
        table: dict[str, dict[str, AtlasFact]] = defaultdict(dict)
        for fact in self.facts:
            table[fact.subject][fact.relation] = fact
        return dict(table)

    @cached_property
    def _by_object(self) -> dict[tuple[str, str], list[AtlasFact]]:
        table: dict[tuple[str, str], list[AtlasFact]] = defaultdict(list)
        for fact in self.facts:
            table[fact.relation, fact.object].append(fact)
        return dict(table)

    @cached_property
    def _ranges(self) -> dict[str, tuple[str, ...]]:
        table: dict[str, dict[str, None]] = defaultdict(dict)
        for fact in self.facts:
            table[fact.relation][fact.object] = None
        return {relation: tuple(objects) for relation, objects in table.items()}

    def subjects(self) -> tuple[str, ...]:
        """Every subject once, in file order."""
        return tuple(self._by_subject)

    def about(self, subject: str) -> tuple[AtlasFact, ...]:
        """Every fact of one subject; empty for an unknown one."""
        return tuple(self._by_subject.get(subject, {}).values())

    def find(self, subject: str, relation: str) -> AtlasFact | None:
        """The fact, or None."""
        return self._by_subject.get(subject, {}).get(relation)

    def sharing(self, relation: str, target: str) -> tuple[AtlasFact, ...]:
        """Every fact of a relation with this object."""
        return tuple(self._by_object.get((relation, target), ()))

    def range_of(self, relation: str) -> tuple[str, ...]:
        """The objects that occur with a relation, in file order."""
        return self._ranges[relation]

    def chains(self) -> Iterator[Chain]:
        """Every pair of facts that chains, such as landmark -> city -> country."""
        for first in self.facts:
            object_type = self.relations[first.relation].object_type
            for second in self.about(first.object):
                if self.relations[second.relation].subject_type == object_type:
                    yield Chain(first, second)

    def as_fact(self, fact: AtlasFact, template: str | None = None) -> Fact:
        """The row as a `Fact`, in its relation's first template unless another is given."""
        words = template if template is not None else self.relations[fact.relation].templates[0]
        return Fact(fact.subject, words, fact.object, fact.relation)

    def counterfactual(self, fact: AtlasFact, seed: int = 0) -> str:
        """A false object of the same relation, drawn with a seeded generator (CounterFact's rule)."""
        others = [target for target in self.range_of(fact.relation) if target != fact.object]
        return random.Random(f"{seed}|{fact.relation}|{fact.subject}").choice(others)

    def match(self, prompt: str, subject: str) -> Fact | None:
        """The atlas fact that a prompt asks for, if it is one of the atlas's templates; else None."""
        for row in self.about(subject):
            for template in self.relations[row.relation].all_templates:
                if template.replace("{}", subject) == prompt.strip():
                    return self.as_fact(row, template)
        return None


def _rows(name: str) -> list[dict[str, str]]:
    with (ATLAS_FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def load_atlas() -> Atlas:
    """Read the bundled CSV files; the result is immutable and shared."""
    templates: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for row in _rows("templates.csv"):
        templates[row["relation"]][int(row["held_out"])].append(row["template"])
    relations = {
        row["relation"]: Relation(
            name=row["relation"],
            subject_type=row["subject_type"],
            object_type=row["object_type"],
            question=row["question"],
            phrase=row["phrase"],
            unique_inverse=row["unique_inverse"] == "1",
            inverse_template=row["inverse_template"],
            templates=tuple(templates[row["relation"]][0]),
            held_out_templates=tuple(templates[row["relation"]][1]),
        )
        for row in _rows("relations.csv")
    }
    facts = tuple(
        AtlasFact(
            relation=row["relation"],
            subject=row["subject"],
            object=row["object"],
            held_out=row["held_out"] == "1",
            contains_answer=row["contains_answer"] == "1",
        )
        for name in FACT_FILES
        for row in _rows(name)
    )
    aliases: dict[str, list[str]] = defaultdict(list)
    for row in _rows("aliases.csv"):
        aliases[row["subject"]].append(row["alias"])
    pronouns = {row["subject"]: row["pronoun"] for row in _rows("pronouns.csv")}
    return Atlas(facts, relations, {subject: tuple(names) for subject, names in aliases.items()}, pronouns)
