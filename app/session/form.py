"""The fields of the Workbench: what is wrong with them, and the questions they ask."""

from __future__ import annotations

from dataclasses import dataclass

from app.server.catalog import Choice
from app.session.asks import SITES, ReadAsk, TraceAsk

LONGEST = {"prompt": 300, "subject": 80, "answer": 60, "new": 60, "against": 60}
"""Characters of the fields."""


@dataclass(frozen=True)
class Form:
    """The current values of the fields."""

    model: Choice
    prompt: str
    subject: str
    answer: str
    new: str
    site: str
    noise: float
    samples: int
    window: int
    seed: int
    against: str = ""
    occurrence: int = 0
    """Which place of the subject in the prompt is meant, counted from 0."""
    known: str = ""
    """The answer where none is given: the atlas's or the model's own, once the prompt was read."""

    @property
    def problems(self) -> dict[str, str]:
        """Field name -> one sentence on what is wrong with it; empty when a trace can run."""
        problems: dict[str, str] = {}
        if not self.prompt.strip():
            problems["prompt"] = "Write a sentence that stops where the answer should come."
        elif not self.subject.strip():
            problems["subject"] = "Copy the words of the prompt that name the thing it is about."
        elif self.subject not in self.prompt:
            problems["subject"] = "These words are not in the prompt; copy them letter by letter."
        if "{}" in self.prompt:
            problems["prompt"] = "Write the subject itself in place of {}."
        for name, longest in LONGEST.items():
            if "\0" in getattr(self, name):
                problems[name] = "It contains a zero character (U+0000); type it again without it."
            if len(getattr(self, name)) > longest:
                problems[name] = f"It has {len(getattr(self, name)):,} characters; write at most {longest}."
        return problems

    @property
    def edit_problem(self) -> str:
        """Why no edit can be made with this new answer; empty when one can."""
        if not self.new.strip():
            return "Write the word the edited model should say."
        if self.answer.strip() and self.new.strip() == self.answer.strip():
            return "The new answer equals the true one; an edit needs a different one."
        if not self.answer.strip() and self.new.strip() == self.known:
            return "This is the answer without an edit already; an edit needs a different one."
        return ""

    def read_ask(self) -> ReadAsk:
        """The question behind the token strip."""
        return ReadAsk(self.model.key, self.prompt, self.subject, self.answer.strip(), self.occurrence)

    def trace_ask(self) -> TraceAsk:
        """The question behind the map."""
        sites = tuple(SITES) if self.site == "all" else (self.site,)
        window = 1 if sites == ("state",) else self.window
        return TraceAsk(
            self.model.key,
            self.prompt,
            self.subject,
            self.answer.strip(),
            sites,
            self.noise,
            self.samples,
            window,
            self.seed,
            self.against.strip(),
            self.occurrence,
        )


def default_window(n_layers: int) -> int:
    """A quarter of the layers, at most ROME's ten."""
    return max(1, min(10, n_layers // 4))
