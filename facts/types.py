"""What is known (`Fact`), what is asked (`Probe`) and what is to be changed (`EditRequest`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProbeKind = Literal[
    "paraphrase",  # the edited fact in other words
    "neighborhood",  # another subject, same relation, same true object
    "same_subject",  # the edited subject, another relation
    "alias",  # the edited fact under another name of the subject
    "one_hop",  # what follows from the new object by one more stored fact
    "inverse",  # the subject asked for, given the new object
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
    """The answer without a leading space.  May be empty only where the model's own prediction is wanted."""
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

    @classmethod
    def from_prompt(cls, prompt: str, subject: str, target_true: str = "", relation: str = "") -> Fact:
        """A fact from a finished prompt; the first occurrence of `subject` becomes the placeholder.

        Raises:
            ValueError: if the prompt is empty, contains `{}`, or does not contain the subject.
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
        return cls(subject, prompt.replace(subject, "{}", 1), target_true, relation)


@dataclass(frozen=True)
class Probe:
    """A prompt with the answer it should have, and what the unedited model must know for it to count."""

    kind: ProbeKind
    prompt: str
    answer: str
    bridge: tuple[tuple[str, str], ...] = ()
    """(prompt, answer) pairs the *unedited* model must get right, or the probe is not counted (arXiv:2307.12976)."""


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


def check_text(name: str, text: str) -> None:
    """Refuse text no tokenizer can take: a broken character, or far too much of it."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} contains a broken character (a lone surrogate); type it again without it")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"{name} has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are taken")
