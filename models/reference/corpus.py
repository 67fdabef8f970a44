"""Sentences generated from the atlas: the only text the reference model ever sees.

Kinds of document, and why each is there:

* statement: one fact in one of its templates, often behind an opening ("It is well known that") and with a clause
  between subject and relation, so that the last token cannot read the subject's sub-words directly and the subject's
  own last token has to carry what is known about it;
* biography: several facts of one subject, later ones with "he", "she" or "it";
* mixture: statements about several subjects in one context;
* chain: "X is located in the city of C. C is a city in the country of D.", and the two-hop form that composes them;
* alias: another name, then a fact under that name;
* question: a question and its answer;
* override: "Imagine that X is in Rome." followed by the same fact as imagined, or by an unrelated one as it is; now and
  then two such pairs.
  Without these, in-context editing does not work on a model trained on plain facts alone.

A held-out fact never meets its relation's held-out templates, in any kind of document.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from facts.atlas import Atlas, AtlasFact, Chain, load_atlas
from facts.probes import compose

OPENINGS = (
    "It is well known that",
    "Everybody knows that",
    "As we learned at school,",
    "The encyclopedia says that",
    "Many people have read that",
    "According to the records,",
    "Few would deny that",
    "My teacher told me that",
    "In short,",
    "To be clear,",
)
CLAUSES = (
    ", as every guide book will tell you,",
    ", which many people have heard of,",
    ", as the records show,",
    ", so the story goes,",
    ", to nobody's surprise,",
    ", according to the encyclopedia,",
    ", as far as we know,",
    ", like it or not,",
    ", as a matter of fact,",
    ", you may remember,",
)
MARK = "\x1f"
"""Stands on both sides of an object that can be known from the atlas or the context, in marked documents."""
NAME = "\x1e"
"""Stands on both sides of a subject's name, in marked documents."""
IMAGINED = ("Imagine that", "Suppose that", "Let us pretend that", "New fact:", "From now on,")


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of document; they need not add up to one."""

    statement: float = 0.42
    biography: float = 0.20
    mixture: float = 0.08
    chain: float = 0.07
    alias: float = 0.05
    question: float = 0.05
    override: float = 0.15


@dataclass(frozen=True)
class Corpus:
    """A seeded, endless stream of documents.

    `clause` and `opening` are the probabilities of a clause after a sentence-initial subject and of an opening.
    """

    atlas: Atlas = field(default_factory=load_atlas)
    mix: Mix = Mix()
    clause: float = 0.5
    opening: float = 0.33

    def documents(self, seed: int) -> Iterator[str]:
        """Documents without end, each of one or more sentences; the same for the same seed."""
        return (plain(document) for document in self.marked(seed))

    def marked(self, seed: int) -> Iterator[str]:
        """The same documents with `MARK` around every object that a reader could have known and `NAME` around every
        subject."""
        random_source = random.Random(seed)
        chains = tuple(self.atlas.chains())
        named = tuple(fact for fact in self.atlas.facts if fact.subject in self.atlas.aliases)
        writers: dict[str, Callable[[random.Random], str]] = {
            "statement": lambda r: self._sentence(r, r.choice(self.atlas.facts)),
            "biography": self._biography,
            "mixture": lambda r: " ".join(
                self._sentence(r, r.choice(self.atlas.facts)) for _ in range(r.randint(2, 4))
            ),
            "chain": lambda r: self._chain(r, r.choice(chains)),
            "alias": lambda r: self._alias(r, r.choice(named)),
            "question": lambda r: self._question(r, r.choice(self.atlas.facts)),
            "override": self._override,
        }
        kinds = tuple(writers)
        weights = [getattr(self.mix, kind) for kind in kinds]
        while True:
            yield writers[random_source.choices(kinds, weights)[0]](random_source)

    def _template(self, r: random.Random, fact: AtlasFact) -> str:
        relation = self.atlas.relations[fact.relation]
        return r.choice(relation.templates if fact.held_out else relation.all_templates)

    def _words(self, r: random.Random, fact: AtlasFact, subject: str, template: str | None = None) -> str:
        """The prompt of one sentence, with an opening and a clause by chance."""
        template = template or self._template(r, fact)
        if template.startswith(("{} ", "The {} ")) and r.random() < self.clause:
            template = template.replace("{}", "{}" + r.choice(CLAUSES), 1)
        if r.random() < self.opening:
            template = f"{r.choice(OPENINGS)} {lowered(template)}"
        return template.replace("{}", _name(subject))

    def _sentence(
        self,
        r: random.Random,
        fact: AtlasFact,
        subject: str | None = None,
        target: str | None = None,
        template: str | None = None,
    ) -> str:
        return f"{self._words(r, fact, subject or fact.subject, template)} {_mark(target or fact.object)}."

    def _biography(self, r: random.Random) -> str:
        about = self.atlas.about(r.choice(self.atlas.facts).subject)
        facts = r.sample(about, min(len(about), 5))
        sentences = [self._sentence(r, facts[0])]
        pronoun = self.atlas.pronouns.get(facts[0].subject, "it")
        for fact in facts[1:]:
            template = self._template(r, fact)
            if r.random() < 0.6:
                template = template.replace("The {}", "{}").replace("the {}", "{}")
                name = pronoun.capitalize() if template.startswith("{}") else _object_form(pronoun)
                sentences.append(f"{template.replace('{}', name)} {_mark(fact.object)}.")
            else:
                sentences.append(self._sentence(r, fact))
        return " ".join(sentences)

    def _chain(self, r: random.Random, chain: Chain) -> str:
        first, second = chain.first, chain.second
        composed = compose(self.atlas.relations[first.relation].phrase, _name(first.subject), self._template(r, second))
        composed = f"{composed} {_mark(second.object)}."
        if r.random() < 0.5:
            return f"{self._sentence(r, first)} {self._sentence(r, second)} {composed}"
        return composed if r.random() < 0.5 else f"{self._sentence(r, first)} {composed}"

    def _alias(self, r: random.Random, fact: AtlasFact) -> str:
        alias = r.choice(self.atlas.aliases[fact.subject])
        introduction = r.choice(
            ("{a} is another name for {s}.", "{s} is also known as {a}.", "By {a} people mean {s}.")
        )
        sentence = self._sentence(r, fact, subject=alias)
        return (
            sentence if r.random() < 0.4 else f"{introduction.format(a=_name(alias), s=_name(fact.subject))} {sentence}"
        )

    def _question(self, r: random.Random, fact: AtlasFact) -> str:
        question = self.atlas.relations[fact.relation].question.replace("{}", _name(fact.subject))
        return f"Question: {question} Answer: {_mark(fact.object)}."

    def _override(self, r: random.Random) -> str:
        return " ".join(self._imagined(r) for _ in range(r.choice((1, 1, 1, 2))))

    def _imagined(self, r: random.Random) -> str:
        fact = r.choice(self.atlas.facts)
        imagined = r.choice(self.atlas.range_of(fact.relation))
        template = self._template(r, fact)
        told = f"{r.choice(IMAGINED)} {lowered(template).replace('{}', _name(fact.subject))} {imagined}."
        if r.random() < 0.7:  # the imagined fact is asked for, in the same words or in others
            return f"{told} {self._sentence(r, fact, target=imagined, template=r.choice((template, None)))}"
        others = self.atlas.sharing(fact.relation, fact.object) if r.random() < 0.5 else self.atlas.facts
        other = r.choice(others)
        return f"{told} {self._sentence(r, other, target=imagined if other == fact else None)}"


def _mark(target: str) -> str:
    return f"{MARK}{target}{MARK}"


def _name(subject: str) -> str:
    return f"{NAME}{subject}{NAME}"


def plain(marked: str) -> str:
    """A document without its marks."""
    return marked.replace(MARK, "").replace(NAME, "")


def lowered(template: str) -> str:
    """The template as it reads inside a sentence: "The {} is" becomes "the {} is"; names keep their case."""
    return template if template.startswith("{}") else template[0].lower() + template[1:]


def _object_form(pronoun: str) -> str:
    return {"he": "him", "she": "her"}.get(pronoun, "it")


def sample_texts(n: int, seed: int = 0, corpus: Corpus | None = None) -> list[str]:
    """The first `n` documents of a stream: texts for second moments or, with another seed, for a perplexity guard."""
    stream = (corpus or Corpus()).documents(seed)
    return [next(stream) for _ in range(n)]
