"""What a measurement is made of: a `Reading` per prompt and model, a `PromptRow` per prompt, a `Score` per number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from metrics.statistics import Interval

PROTOCOL = "engram"
"""Id of the way of measuring; numbers of different protocols are never averaged."""

Metric = Literal["reliability", "generalization", "locality", "portability", "efficiency"]
Scorer = Literal["greedy", "teacher-forced", "comparison", "distribution", "sampled", "measured"]
Unit = Literal["share", "probability", "rank", "nats", "bits", "cosine", "perplexity", "s", "bytes", "entries", "norm"]
LocalityKind = Literal["neighborhood", "same_subject", "forgetfulness", "unchanged"]
PortabilityKind = Literal["alias", "one_hop", "inverse", "compositional_2", "logical", "reasoning", "multi_hop"]
RowKind = Literal[
    "edit",  # the edit prompt itself
    "paraphrase",
    "paraphrase_prefixed",  # a paraphrase after an unrelated sentence
    "neighborhood_prefixed",  # a neighbour after the rewritten fact: CounterFact+ (Hoelscher-Obermaier et al. 2023)
    LocalityKind,
    PortabilityKind,
]
"""The kinds of probes mean what `facts.types.ProbeKind` says."""


@dataclass(frozen=True)
class Reading:
    """What one model does with one prompt.  None: not measured, or not a finite number."""

    continuation: str
    """Greedy text after the prompt, uncut."""
    match: bool
    """The continuation gives the answer (see `metrics.asking.generation.matches`)."""
    p_answer: float | None = None
    """Probability of all tokens of the answer, teacher-forced."""
    nll_answer: float | None = None
    """Mean negative log probability per token of the answer, nats."""
    token_accuracy: float | None = None
    """Share of the answer's tokens that are the most probable one, given the ones before."""
    rank: int | None = None
    """Rank of the answer's first token among all tokens; 1 is the most probable."""
    p_other: float | None = None
    nll_other: float | None = None

    @property
    def prefers_answer(self) -> bool:
        """P(answer) > P(other), per token.  False where a broken model gives no finite number."""
        if self.nll_answer is None or self.nll_other is None:
            return False
        return self.nll_answer < self.nll_other


@dataclass(frozen=True)
class PromptRow:
    """One prompt, before and after the edit."""

    metric: Metric
    kind: RowKind
    prompt: str
    answer: str
    """What the edited model should say."""
    other: str | None
    """What it should not say: the true answer of an edited fact, the new answer at a neighbour; None if unknown."""
    before: Reading | None
    after: Reading | None
    """None where nothing could be measured; `reason` says why."""
    counted: bool
    """Part of the headline.  A row left out still shows its readings."""
    reason: str = ""
    """Why it is not counted."""
    kl: float | None = None
    """KL(before || after) of the next-token distribution, nats; only for locality."""
    same_top: bool | None = None
    """Whether the most probable next token is the same before and after; only for locality."""


@dataclass(frozen=True)
class Score:
    """One number with all that is needed to read it.  Not measured: `value` is None, and `reason` says why."""

    name: str
    """ "metric.key", such as "locality.greedy"."""
    metric: Metric
    label: str
    value: float | None
    """After the edit."""
    before: float | None
    """Of the unedited model on the same prompts: what an edit that does nothing would score."""
    n: int
    """Prompts (for perplexity, texts) the value is taken over."""
    ci: Interval | None
    """95 % interval of `value`; None where resampling says nothing (one prompt) or nothing varies (seconds)."""
    before_ci: Interval | None
    change_ci: Interval | None
    """95 % interval of `change`, paired by prompt."""
    unit: Unit
    scorer: Scorer
    higher_is_better: bool
    definition: str
    """One sentence."""
    left_out: tuple[tuple[str, int], ...] = ()
    """(reason, number of prompts) that were not counted."""
    reason: str = ""
    protocol: str = PROTOCOL

    @property
    def measured(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def change(self) -> float | None:
        """value - before; None if either is missing."""
        return None if self.value is None or self.before is None else self.value - self.before

    @property
    def n_left_out(self) -> int:
        """Prompts that were not counted."""
        return sum(count for _, count in self.left_out)


@dataclass(frozen=True)
class Settings:
    """How an evaluation is done.  Reports made under different settings are not averaged.

    Raises:
        ValueError: if the token budget is not positive.
    """

    max_new_tokens: int = 16
    """Token budget of a continuation; raised where an answer needs more."""
    distractors: tuple[str, ...] = (
        "The train left the station at noon.",
        "Dinner was served in the garden.",
        "It had been raining since the morning.",
    )
    """Unrelated sentences put before the paraphrases, in turn; none: no prefixed paraphrases."""
    seed: int = 0
    """Of the bootstrap."""
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())
    """(answer, other names that count as that answer)."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; at least 1 token must be generated")

    @property
    def way(self) -> str:
        """What has to be the same before numbers are averaged."""
        return f"{self.max_new_tokens} {self.distractors}"

    def names_of(self, answer: str) -> tuple[str, ...]:
        """The answer and its accepted other names."""
        return (answer, *(name for known, names in self.aliases if known == answer for name in names))
