"""Facts, probes, edit requests and the rows of datasets: `Fact`, `Probe`, `EditRequest`, `Case`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from facts.words import occurrences

MeasuredKind = Literal[
    "paraphrase",  # the edited fact in other words
    "neighborhood",  # another subject, same relation, same true object
    "same_subject",  # the edited subject, another relation
    "alias",  # the edited fact under another name of the subject
    "one_hop",  # what follows from the new object by one more stored fact
    "inverse",  # the subject asked for, given the new object
]
"""The kinds of probes the five metrics of `metrics` count."""

ProbeKind = Literal[
    MeasuredKind,
    "attribute",  # another subject, same relation, whose true object is the new one (CounterFact)
    "compositional_2",  # the edited subject reached from another one by a stored fact (RippleEdits)
    "forgetfulness",  # an object of the same relation that the edit does not replace (RippleEdits)
    "logical",  # what follows by logic: inverse, symmetric or transitive relations, yes and no (RippleEdits)
    "multi_hop",  # a question whose answer needs one or more edited facts on the way (MQuAKE)
    "reasoning",  # what should follow from the edit, by a step that the dataset does not name (KnowEdit)
    "unchanged",  # a prompt the edit should not touch; where `answer` is empty, only before and after can be compared
]

MAX_PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class Fact:
    """One (subject, relation, object) triple with the words that ask for it.

    Raises:
        ValueError: if a field is empty or `template` does not hold exactly one `{}`.
    """

    subject: str
    template: str
    """Holds exactly one `{}`, where the subject goes; ends where the answer would begin, without a space."""
    target_true: str
    """The answer without a leading space.  Empty only if the model's own prediction is wanted."""
    relation: str = ""

    def __post_init__(self) -> None:
        if not self.subject.strip():
            raise ValueError(f"subject is {self.subject!r}; expected a non-empty string, such as 'Space Needle'")
        if self.template.count("{}") != 1:
            raise ValueError(
                f"template {self.template!r} holds {self.template.count('{}')} placeholders; "
                "write exactly one {} where the subject goes"
            )
        check_text("subject", self.subject)
        check_text("template", self.template)
        check_text("target_true", self.target_true)

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace("{}", self.subject)

    @property
    def start(self) -> int:
        """Character offset of the subject in the prompt."""
        return self.template.index("{}")

    @property
    def names_subject(self) -> bool:
        """Whether the prompt contains the subject; else the whole prompt is used as the subject (`Fact.from_words`)."""
        return self.template != "{}"

    @classmethod
    def from_prompt(
        cls, prompt: str, subject: str, target_true: str = "", relation: str = "", *, occurrence: int = 0
    ) -> Fact:
        """A fact from a finished prompt; one occurrence of `subject` becomes the placeholder.

        Args:
            occurrence: which one, counted from 0 among those `facts.words.occurrences` finds: whole words first.

        Raises:
            ValueError: if the prompt is empty, contains `{}`, does not contain the subject, or not as often.
        """
        if not prompt.strip():
            raise ValueError("the prompt is empty; write a sentence that stops where the answer should come")
        if not subject.strip():
            raise ValueError("the subject is empty; copy the words of the prompt that name the thing it is about")
        if "{}" in prompt:
            raise ValueError(f"the prompt {prompt!r} contains {{}}; write the subject itself in its place")
        if subject not in prompt:
            raise ValueError(
                f"the subject {subject!r} does not occur in the prompt {prompt!r}; "
                "copy it from the prompt letter by letter"
            )
        places = occurrences(prompt, subject)
        if not 0 <= occurrence < len(places):
            raise ValueError(
                f"occurrence {occurrence} of the subject {subject!r} was asked for, but the prompt {prompt!r} holds "
                f"{len(places)}, counted from 0"
            )
        start = places[occurrence]
        return cls(subject, f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}", target_true, relation)

    @classmethod
    def from_words(cls, prompt: str, target_true: str = "", relation: str = "") -> Fact:
        """A fact whose prompt does not name its subject: the whole prompt is used as the subject.

        Methods that edit at the subject's last token then edit at the prompt's last token.
        """
        return cls(prompt, "{}", target_true, relation)


@dataclass(frozen=True)
class Probe:
    """A prompt with its expected answer, and what the unedited model must know for it to count."""

    kind: ProbeKind
    prompt: str
    answer: str
    bridge: tuple[tuple[str, str], ...] = ()
    """(prompt, answer) pairs the *unedited* model must get right, or the probe is not counted (arXiv:2307.12976)."""
    aliases: tuple[str, ...] = ()
    """Other answers that count."""
    source: str = ""
    """Its place in a dataset, such as "portability.Reasoning"; empty for derived and typed probes."""
    group: str = ""
    """Probes of one group form one test; empty if the probe is a test by itself."""
    group_rule: Literal["any", "all"] = "any"
    """How many probes of the group must be right for the test to pass."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to rewrite, with the probes that judge the rewrite.

    Raises:
        ValueError: if `target_new` is empty or equals the true answer.
    """

    fact: Fact
    target_new: str
    probes: tuple[Probe, ...] = ()
    generation_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_text("target_new", self.target_new)
        if not self.target_new.strip():
            raise ValueError("the new answer is empty; write the word the edited model should say")
        if self.target_new.strip() == self.fact.target_true.strip():
            raise ValueError(
                f"the new answer {self.target_new!r} equals the true answer; an edit needs a different one"
            )

    def of_kind(self, kind: ProbeKind) -> tuple[Probe, ...]:
        """The probes of one kind, in order."""
        return tuple(probe for probe in self.probes if probe.kind == kind)


@dataclass(frozen=True)
class Case:
    """One row of a dataset: facts to rewrite together, or only to trace, and the probes.

    Raises:
        ValueError: if there is neither a request nor a known fact.
    """

    id: str
    requests: tuple[EditRequest, ...] = ()
    """Most datasets have one per case; MQuAKE has up to four, to be made together."""
    known: tuple[Fact, ...] = ()
    """Facts to trace, with no new answer (known_1000)."""
    probes: tuple[Probe, ...] = ()
    """Probes of all requests together, such as multi-hop questions; those of one request are in the request."""
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(answer, other names that count) of the requests' answers and of bridge facts."""
    source: str = ""
    """Name of the format it was read from."""
    notes: tuple[str, ...] = ()
    """Assumptions made to read the row, one sentence each."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the row that no other attribute holds, as JSON values in their original places."""

    def __post_init__(self) -> None:
        if not self.requests and not self.known:
            raise ValueError(f"case {self.id!r} has nothing to edit or trace; give it a request or a known fact")

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact of the case: those to rewrite, then those only known."""
        return (*(request.fact for request in self.requests), *self.known)

    @property
    def all_probes(self) -> tuple[Probe, ...]:
        """The probes of every request, then those of the case."""
        return (*(probe for request in self.requests for probe in request.probes), *self.probes)

    @property
    def aliases(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(answer, other names) of everything in the case, one entry per answer, as `metrics.Settings` takes them."""
        table: dict[str, dict[str, None]] = {}
        for answer, names in (*self.names, *((probe.answer, probe.aliases) for probe in self.all_probes)):
            if names:
                table.setdefault(answer, {}).update(dict.fromkeys(names))
        return tuple((answer, tuple(names)) for answer, names in table.items())


def check_text(name: str, text: str) -> None:
    """Raise for text that no tokenizer can take: a broken or zero character, or far too many characters."""
    if "\0" in text:
        raise ValueError(f"{name} contains a zero character (U+0000); type it again without it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} contains a broken character (a lone surrogate); type it again without it")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"{name} has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are taken")
