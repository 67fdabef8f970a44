"""Causal tracing: which states carry a fact?  Meng et al. 2022, section 2.1 (arXiv:2202.05262).

Three runs of one prompt: **clean**; **corrupted**, with noise on the subject's embeddings; **corrupted with
restoration**, the same with one state (token t, layer l) put back to its clean value.

    TE = P(answer | clean) - P(answer | corrupted)
    IE(t, l) = P(answer | corrupted, h_t^l restored) - P(answer | corrupted)

`TraceConfig.direction` "noising" asks the converse: one corrupted state is put into the clean run, and

    IE(t, l) = P(answer | clean) - P(answer | clean, h_t^l corrupted)

An answer of several tokens is teacher-forced: P is the product over its tokens, each given the prompt and the answer's
earlier tokens, summed in float32 log space.  Only states of the prompt are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from models import LanguageModel
from models.hooks import run_hooked
from tracing.config import TraceConfig, TraceSite
from tracing.corruption import Corruption, NoiseLevel, corrupt, measure_noise
from tracing.engine import Engine, Samples
from tracing.measures import MEASURES, Measure, Readings
from tracing.probe import EngineName, engine_for
from tracing.question import Question, ask, first_token, whole_answer
from tracing.runs import Driver
from tracing.types import PositionName, TraceResult

__all__ = ["Progress", "TraceCancelled", "ask", "causal_trace", "refine_trace", "trace_all", "trace_sites"]

Progress = Callable[[int, int], None]
"""Called with (restored runs done, restored runs in all) after every forward pass of the trace."""


class TraceCancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The caller asked the trace to stop; nothing was kept."""


def causal_trace(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    engine: EngineName | None = None,
) -> TraceResult:
    """Trace one fact once; `trace_all` traces it in several ways for less, `refine_trace` shows the first sample soon.

    Args:
        fact: its prompt, subject and answer; an empty `target_true` asks for the model's own greedy next token.
        config: the paper's setting by default.
        level: the spread of the embeddings, from `measure_noise`; by default measured over the whole vocabulary.
        positions: restrict the trace to these prompt positions to save time; others are NaN in the result.
        progress: told (restored runs done, in all) after every forward pass.
        cancelled: asked before every forward pass.
        engine: "packed" or "replay"; by default what is exact for the model and fast (`tracing.probe`).

    Raises:
        TraceCancelled: when `cancelled` said so, at most one forward pass later.
        TraceMemoryError: if a pass did not fit; it names the batch size that would.
        ValueError: if the prompt does not fit the model, the subject is not in it, a setting does not fit the model, or
            the corruption changes nothing.
    """
    asked = [config or TraceConfig()]
    return trace_all(
        model,
        fact,
        asked,
        level=level,
        positions=positions,
        progress=progress,
        cancelled=cancelled,
        engine=engine,
    )[0]


def trace_sites(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[TraceSite, TraceResult]:
    """`trace_all` for configs of different sites, by site.

    Raises:
        ValueError: as in `trace_all`, and if a site repeats.
    """
    sites = [config.site for config in configs]
    if len(set(sites)) < len(sites):
        raise ValueError(f"the sites {sites} repeat; trace each site once, or use trace_all")
    results = trace_all(model, fact, configs, level=level, positions=positions, progress=progress, cancelled=cancelled)
    return dict(zip(sites, results, strict=True))


def trace_all(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    engine: EngineName | None = None,
    driver: Driver = run_hooked,
) -> tuple[TraceResult, ...]:
    """Trace one fact in several ways (sites, windows, severed or not) that share the clean and corrupted runs.

    Arguments as in `causal_trace`; the results are in the order of the configs.

    Args:
        driver: what runs a forward: plain hooks, or nnsight (`models.interventions.run_traced`).

    Raises:
        ValueError: as in `causal_trace`, and if the configs differ in the corruption or in the answer compared with.
    """
    trace = _Trace(model, fact, configs, level, positions, engine, progress, cancelled, driver)
    for part in trace.engine.run(range(len(trace.corruption.embeddings)), trace.tick):
        trace.found.append(part)
    trace.tick(0)
    return trace.results()


def refine_trace(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    width: float = 0.0,
    step: int = 1,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[TraceResult]:
    """The exact map of the first corrupted run, then of the first two, and so on: an unbiased preview, ever sharper.

    Each result is what `causal_trace` gives for that many samples.  It ends after `config.samples`, or as soon as no
    95 % interval of an indirect effect is wider than `width`.

    Args:
        width: of an interval, as a difference of probabilities; 0 for all samples.
        step: samples between two results.

    Raises:
        ValueError: as in `causal_trace`, and if `width` is negative or `step` below 1.
    """
    if not width >= 0 or step < 1:
        raise ValueError(f"width is {width} and step {step}; expected a width of 0 or more and a step of 1 or more")
    trace = _Trace(model, fact, [config or TraceConfig()], level, positions, None, progress, cancelled)
    total = len(trace.corruption.embeddings)
    for start in range(0, total, step):
        trace.found += trace.engine.run(range(start, min(start + step, total)), trace.tick)
        trace.tick(0)
        result = trace.results()[0]
        yield result
        low, high = result.ci()
        if result.config.n_samples > 1 and float(np.nanmax(high - low)) <= width:
            return


class _Trace:
    """One call: what was asked, what is known so far, whom to tell."""

    def __init__(
        self,
        model: LanguageModel,
        fact: Fact,
        configs: Sequence[TraceConfig],
        level: NoiseLevel | None,
        positions: Sequence[int | PositionName] | None,
        engine: EngineName | None,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
        driver: Driver = run_hooked,
    ) -> None:
        _check_configs(model, configs)
        self._cancelled, self._progress, self._done, self._pending = cancelled, progress, 0, 0
        self._total = 0
        self.tick(0)
        self.model, self.fact, self.configs, shared = model, fact, configs, configs[0]
        self.level = level or measure_noise(model)
        question = ask(model, fact)
        subject = question.ids[question.subject.start : question.subject.stop]
        self.corruption: Corruption = corrupt(
            model, fact, question.subject, model.embedding(subject), shared, self.level
        )
        self.engine = Engine(
            model=model,
            question=question,
            embeddings=self.corruption.embeddings.to(model.device),
            configs=configs,
            positions=_positions(question, positions),
            other=first_token(model, question, shared.against) if shared.against.strip() else None,
            name=engine or engine_for(model, driver),
            driver=driver,
        )
        self._total = self.engine.n_runs() * len(self.corruption.embeddings)
        self.found: list[Samples] = []

    def tick(self, coming: int) -> None:
        """Tell of the pass that is over, and stop before the next if that is asked."""
        self._done += self._pending
        if self._pending and self._progress:
            self._progress(self._done, self._total)
        self._pending = coming
        if self._cancelled and self._cancelled():
            before = f"after {self._done} of {self._total} restored runs" if self._total else "before it began"
            raise TraceCancelled(f"the trace was cancelled {before}")

    def results(self) -> tuple[TraceResult, ...]:
        """One result a config, of the samples found so far."""
        return tuple(self._result(index) for index in range(len(self.configs)))

    def _result(self, index: int) -> TraceResult:
        config, model, question = self.configs[index], self.model, self.engine.question
        corrupted = torch.cat([part.corrupted for part in self.found])
        restored = torch.cat([part.restored[index] for part in self.found])
        if config.n_samples > 1:
            config = replace(config, samples=len(corrupted))
        if config.site == "attn_heads":
            restored = restored.unflatten(2, (model.n_layers, model.n_heads))
        readings = _readings(self.found[0].clean, corrupted, restored)
        probability = readings.pop("probability")
        greedy = self.engine.clean_logits.argmax(-1).tolist()
        answer = self.fact.target_true.strip() or model.token_strings(question.answer_ids)[0]
        other = self.engine.other
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
            engine=self.engine.name,
            clean=probability.clean,
            corrupted=probability.corrupted,
            restored=probability.restored,
            corruption=self.corruption.source,
            against="" if other is None else model.token_strings([other])[0],
            others=readings,
        )


def _readings(clean: Tensor, corrupted: Tensor, restored: Tensor) -> dict[Measure, Readings]:
    """By measure; a logit difference only where there is another answer.

    Args:
        clean: [answer, quantity].
        corrupted: [sample, answer, quantity].
        restored: [sample, pos, layer, answer, quantity], for heads with their axis behind the layer.
    """
    runs = [whole_answer(each) for each in (clean, corrupted, restored)]
    found: dict[Measure, Readings] = {}
    for measure in MEASURES:
        alone, low, grid = (run[measure] for run in runs)
        if not torch.isnan(alone):
            found[measure] = Readings(float(alone), _array(low), _array(grid))
    return found


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


def _positions(question: Question, asked: Sequence[int | PositionName] | None) -> list[int]:
    """The prompt positions to trace, sorted."""
    if asked is None:
        return list(range(question.n_prompt))
    names = {
        "first_subject": question.subject.start,
        "last_subject": question.subject.stop - 1,
        "last_token": question.n_prompt - 1,
    }
    found = set()
    for item in asked:
        pos = names.get(item, -1) if isinstance(item, str) else item
        if not 0 <= pos < question.n_prompt:
            raise ValueError(f"position {item!r} is not one of the {question.n_prompt} tokens or of {', '.join(names)}")
        found.add(pos)
    return sorted(found)


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.array(values.float().numpy(), dtype=np.float32)
