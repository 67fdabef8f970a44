"""State of one traced fact: its tokens, its corruption, the readings so far and the result made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from facts.watch import Watch
from models import LanguageModel
from tracing.config import TraceConfig
from tracing.corruption import Corruption, NoiseLevel, corrupt
from tracing.engine.engine import Engine, Samples, TracedPrompt
from tracing.engine.question import Question, ask, first_token, whole_answer
from tracing.measures import Measure, Readings
from tracing.types import PositionName, TraceResult


@dataclass(eq=False)
class RunCount:
    """Counts restored runs for a `Watch`, which may stop the trace before the next pass."""

    watch: Watch
    total: int = 0
    """Number of restored runs, once counted."""
    _done: int = field(default=0, init=False)
    _pending: int = field(default=0, init=False)

    def tick(self, coming: int) -> None:
        """The pass before is done; the next one has `coming` restored runs.

        Raises:
            Cancelled: if the caller asked the trace to stop.
        """
        self._done += self._pending
        if self._pending:
            self.watch.step(self._done, self.total)
        self._pending = coming
        self.watch.check()


@dataclass(frozen=True, eq=False)
class Case:
    """One fact with its corruption and the samples run so far."""

    model: LanguageModel
    fact: Fact
    configs: Sequence[TraceConfig]
    level: NoiseLevel
    corruption: Corruption
    prompt: TracedPrompt
    samples: list[Samples] = field(default_factory=list)

    @property
    def n_samples(self) -> int:
        """Corrupted runs."""
        return len(self.corruption.embeddings)

    def results(self, engine: Engine) -> tuple[TraceResult, ...]:
        """One result per config, from the samples run so far.

        Raises:
            ValueError: if a corrupted run has no probabilities.
        """
        return tuple(self._result(engine, index) for index in range(len(self.configs)))

    def _result(self, engine: Engine, index: int) -> TraceResult:
        config, model, question = self.configs[index], self.model, self.prompt.question
        corrupted = torch.cat([part.corrupted for part in self.samples])
        restored = torch.cat([part.restored[index] for part in self.samples])
        if config.n_samples > 1:
            config = replace(config, samples=len(corrupted))
        if config.site == "attn_heads":
            restored = restored.unflatten(2, (model.n_layers, model.n_heads))
        readings = _readings(self.samples[0].clean, corrupted, restored)
        probability = readings.pop("probability")
        if np.isnan(probability.corrupted).any():
            raise ValueError(
                f"the corrupted runs give no finite probability (noise {config.noise:g}, standard deviation "
                f"{self.corruption.std:.3g}); choose less noise (usually 3)"
            )
        greedy = self.samples[0].greedy
        answer = self.fact.target_true.strip() or model.token_strings(question.answer_ids)[0]
        other = self.prompt.other
        return TraceResult(
            config=config,
            model_name=model.name,
            revision=model.revision,
            prompt=self.fact.prompt,
            subject=self.fact.subject,
            tokens=tuple(model.token_strings(question.ids[: question.n_prompt])),
            subject_span=(question.subject.start, question.subject.stop),
            answer=answer.strip() or answer,
            answer_ids=question.answer_ids,
            predicted=model.token_strings(greedy[:1])[0],
            answer_is_greedy=greedy == list(question.answer_ids),
            noise_std=self.corruption.std,
            noise_source=self.level.source,
            engine=engine.name,
            clean=probability.clean,
            corrupted=probability.corrupted,
            restored=probability.restored,
            corruption=self.corruption.source,
            own_answer=not self.fact.target_true.strip(),
            lead=len(model.lead_ids) if model.chat else 0,
            against="" if other is None else model.token_strings([other])[0],
            others=readings,
        )


def make_case(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    level: NoiseLevel,
    positions: Sequence[int | PositionName] | None,
) -> Case:
    """Tokenise and corrupt the fact.

    Raises:
        ValueError: if the prompt does not fit the model, the subject is not in it, a position is none of its tokens,
            the corruption changes nothing or does not align, or the configs do not go together.
    """
    _check_configs(model, configs)
    shared, question = configs[0], ask(model, fact)
    subject = question.ids[question.subject.start : question.subject.stop]
    corruption = corrupt(model, fact, question.subject, model.embedding(subject), shared, level)
    prompt = TracedPrompt(
        question=question,
        embeddings=corruption.embeddings.to(model.device),
        positions=_positions(question, positions),
        other=first_token(model, fact.prompt, question, shared.against) if shared.against.strip() else None,
    )
    return Case(model, fact, configs, level, corruption, prompt)


def _readings(clean: Tensor, corrupted: Tensor, restored: Tensor) -> dict[Measure, Readings]:
    """The readings of all runs by measure; the logit difference only if there is another answer.

    Args:
        clean: [answer, quantity].
        corrupted: [sample, answer, quantity].
        restored: [sample, pos, layer, answer, quantity], with a head axis after the layer for heads.
    """
    runs = [whole_answer(each) for each in (clean, corrupted, restored)]
    by_measure: dict[Measure, Readings] = {}
    for measure in runs[0]:
        alone, low, grid = (run[measure] for run in runs)
        if not torch.isnan(alone):
            by_measure[measure] = Readings(float(alone), _array(low), _array(grid))
    return by_measure


def _check_configs(model: LanguageModel, configs: Sequence[TraceConfig]) -> None:
    if not configs:
        raise ValueError("no site to trace; give at least one TraceConfig")
    shared = ("corruption", "noise", "samples", "seed", "additive", "counterfactual", "against")
    for name in shared:
        values = {getattr(config, name) for config in configs}
        if len(values) > 1:
            raise ValueError(
                f"the configs differ in {name} ({', '.join(map(repr, sorted(values)))}); "
                "sites traced together share one corruption"
            )
    for config in configs:
        if config.window > model.n_layers:
            raise ValueError(
                f"window is {config.window}, but {model.name} has {model.n_layers} layers; "
                f"choose a window from 1 to {model.n_layers}"
            )


def _positions(question: Question, wanted: Sequence[int | PositionName] | None) -> list[int]:
    """The prompt positions to trace, sorted."""
    if wanted is None:
        return list(range(question.n_prompt))
    names = {
        "first_subject": question.subject.start,
        "last_subject": question.subject.stop - 1,
        "last_token": question.n_prompt - 1,
    }
    positions = set()
    for item in wanted:
        pos = names.get(item, -1) if isinstance(item, str) else item
        if not 0 <= pos < question.n_prompt:
            raise ValueError(f"position {item!r} is not one of the {question.n_prompt} tokens or of {', '.join(names)}")
        positions.add(pos)
    return sorted(positions)


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.array(values.float().numpy(), dtype=np.float32)
