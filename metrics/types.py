"""What a measurement is made of: a `Reading` for each prompt and model, a `PromptRow` for each prompt, a `Score` for
each number, and a `Metric`, which makes scores of the `Evidence` of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from metrics.statistics import Interval

PROTOCOL = "engram"
"""Id of the protocol; numbers of different protocols are never averaged."""

Scorer = Literal["greedy", "teacher-forced", "comparison", "distribution", "sampled", "measured"]
Unit = Literal["share", "probability", "rank", "nats", "bits", "cosine", "perplexity", "s", "bytes", "entries", "norm"]


@dataclass(frozen=True)
class Definition:
    """What one number is: its label, how it is obtained, its unit, and which way is good."""

    label: str
    scorer: Scorer
    unit: Unit
    higher_is_better: bool
    sentence: str


@dataclass(frozen=True)
class Reading:
    """One model's answers to one prompt.  None: not measured, or not a finite number."""

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

    metric: str
    """Name of the metric it belongs to."""
    kind: str
    """Kind of its probe (`facts.types.ProbeKind`), or "edit", "paraphrase_prefixed" (after an unrelated sentence) or
    "neighborhood_prefixed" (after the rewritten fact: CounterFact+, Hoelscher-Obermaier et al. 2023)."""
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
    """One number with everything needed to read it.  If not measured, `value` is None and `reason` says why."""

    name: str
    """ "metric.key", such as "locality.greedy"."""
    metric: str
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
class Measured:
    """The numbers of a `Score`, before it has a name."""

    value: float | None
    before: float | None = None
    n: int = 1
    ci: Interval | None = None
    before_ci: Interval | None = None
    change_ci: Interval | None = None
    left_out: tuple[tuple[str, int], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class TextPair:
    """What the two models write after one generation prompt."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Efficiency:
    """What an edit cost, measured by whoever runs it; None means not measured.

    Raises:
        ValueError: if a number is negative or not finite.
    """

    trace_seconds: float | None = None
    moments_seconds: float | None = None
    value_seconds: float | None = None
    solve_seconds: float | None = None
    apply_seconds: float | None = None
    undo_seconds: float | None = None
    evaluate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    parameters_changed: int | None = None
    parameters_total: int | None = None
    delta_norm: float | None = None
    """Frobenius norm of edited minus base over all weights."""

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{knob.name} is {value!r}; expected a finite number of at least 0, or None")

    @property
    def edit_seconds(self) -> float | None:
        """Sum of the measured stages of every edit: value, solve, apply; None if none was measured.

        The second moment, which is estimated once per model, is not among them.
        """
        stages = (self.value_seconds, self.solve_seconds, self.apply_seconds)
        measured = [seconds for seconds in stages if seconds is not None]
        return sum(measured) if measured else None


@dataclass(frozen=True)
class Evidence:
    """What an evaluation saw: every metric takes its numbers from this."""

    rows: Sequence[PromptRow]
    """One row for each test."""
    seed: int
    """Of the bootstrap."""
    neutral: Sequence[tuple[tuple[float, int], tuple[float, int]]] = ()
    """Per neutral text, before and after: (summed negative log probability in nats, number of predicted tokens)."""
    texts: Sequence[TextPair] = ()
    efficiency: Efficiency = field(default_factory=Efficiency)

    def of(self, metric: str, *kinds: str) -> list[PromptRow]:
        """The rows of a metric, all or those of some kinds."""
        return [row for row in self.rows if row.metric == metric and (not kinds or row.kind in kinds)]


@dataclass(frozen=True)
class Metric:
    """One line of the table of metrics (`metrics.definitions`)."""

    name: str
    """As in the names of its scores: "locality"."""
    label: str
    question: str
    """What it asks, for people."""
    headline: str
    """Key of the score shown first."""
    definitions: Mapping[str, Definition]
    """Every score, by key."""
    measure: Callable[[Evidence], Mapping[str, Measured]]
    """The scores of one edit, by key, in the order they are shown."""
    prompted: bool = True
    """Its scores come from prompts alone, so that they can be measured without running an edit's costs."""
    unknown: str = ""
    """Why a prompt does not count where the unedited model did not know what it needs."""

    def scores(self, evidence: Evidence) -> list[Score]:
        """The metric of one edit, the headline first."""
        return [self._score(key, measured) for key, measured in self.measure(evidence).items()]

    def _score(self, key: str, measured: Measured) -> Score:
        definition = self.definitions[key]
        return Score(
            name=f"{self.name}.{key}",
            metric=self.name,
            label=definition.label,
            value=measured.value,
            before=measured.before,
            n=measured.n,
            ci=measured.ci,
            before_ci=measured.before_ci,
            change_ci=measured.change_ci,
            unit=definition.unit,
            scorer=definition.scorer,
            higher_is_better=definition.higher_is_better,
            definition=definition.sentence,
            left_out=measured.left_out,
            reason=measured.reason,
        )


@dataclass(frozen=True)
class Way:
    """How and on what numbers were measured: what has to be the same before they have a common mean."""

    protocol: str
    model: str
    revision: str
    """Hash of the unedited weights."""
    seed: int
    """Of the bootstrap."""


@dataclass(frozen=True)
class SummaryScore:
    """One score over many edits."""

    name: str
    label: str
    value: float | None
    """Mean over the edits that measured it; None if none did."""
    before: float | None
    """Mean over those of them that have a value before."""
    n: int
    """Edits that measured it."""
    n_prompts: int
    """Prompts behind it, in all."""
    n_left_out: int
    """Edits that did not measure it."""
    ci: Interval | None
    """95 % bootstrap interval over edits; None for fewer than two."""
    change_ci: Interval | None
    unit: Unit
    higher_is_better: bool
    way: Way

    @property
    def change(self) -> float | None:
        """value - before; None if either is missing."""
        return None if self.value is None or self.before is None else self.value - self.before


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
        return (answer, *(name for main, names in self.aliases if main == answer for name in names))
