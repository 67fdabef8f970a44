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

import numpy as np

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.forwards.hooks import run_hooked
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel, measure_noise
from tracing.engine.case import RunCount, make_case
from tracing.engine.engine import Engine
from tracing.engine.probe import EngineName, engine_for
from tracing.engine.question import ask
from tracing.engine.runs import Driver
from tracing.sites import TraceSite
from tracing.types import PositionName, TraceResult

__all__ = ["ask", "causal_trace", "refine_trace", "trace_all", "trace_sites"]


def causal_trace(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    engine: EngineName | None = None,
    watch: Watch = UNWATCHED,
) -> TraceResult:
    """Trace one fact with one config.

    `trace_all` traces it with several configs for less; `refine_trace` gives a first map after one sample.

    Args:
        fact: its prompt, subject and answer; an empty `target_true` asks for the model's own greedy next token.
        config: the paper's setting by default.
        level: the spread of the embeddings, from `measure_noise`; by default measured over the whole vocabulary.
        positions: restrict the trace to these prompt positions to save time; others are NaN in the result.
        engine: "packed" or "replay"; by default what is exact for the model and fast (`tracing.engine.probe`).
        watch: told (restored runs done, in all) after every forward pass, and asked before it.

    Raises:
        Cancelled: when `watch` said so, at most one forward pass later.
        TraceMemoryError: if a pass did not fit; it names the batch size that would.
        ValueError: if the prompt does not fit the model, the subject is not in it, a setting does not fit the model, or
            the corruption changes nothing.
    """
    configs = [config or TraceConfig()]
    return trace_all(
        model,
        fact,
        configs,
        level=level,
        positions=positions,
        engine=engine,
        watch=watch,
    )[0]


def trace_sites(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    first: Callable[[tuple[TraceResult, ...]], None] | None = None,
    watch: Watch = UNWATCHED,
) -> dict[TraceSite, TraceResult]:
    """Trace one fact at several sites in one go: site -> result, as `trace_all`.

    Raises:
        ValueError: as in `trace_all`, and if a site repeats.
    """
    sites = [config.site for config in configs]
    if len(set(sites)) < len(sites):
        raise ValueError(f"the sites {sites} repeat; trace each site once, or use trace_all")
    results = trace_all(model, fact, configs, level=level, positions=positions, first=first, watch=watch)
    return dict(zip(sites, results, strict=True))


def trace_all(
    model: LanguageModel,
    fact: Fact,
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    engine: EngineName | None = None,
    driver: Driver = run_hooked,
    first: Callable[[tuple[TraceResult, ...]], None] | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[TraceResult, ...]:
    """Trace one fact in several ways (sites, windows, severed or not) that share the clean and corrupted runs.

    Arguments as in `causal_trace`; the results are in the order of the configs.

    Args:
        first: called with the results of the first corrupted run, an unbiased preview, before the others are run.
        driver: what runs a forward: plain hooks, nnsight (`models.forwards.interventions.run_traced`), or nnsight on
            another machine (`models.remote.driver.Remote`).

    Raises:
        ValueError: as in `causal_trace`, and if the configs differ in the corruption or in the answer compared with.
    """
    count = RunCount(watch)
    count.tick(0)
    case = make_case(model, fact, configs, level or measure_noise(model), positions)
    runs = Engine(model, [case.prompt], configs, engine or engine_for(model, driver), driver)
    count.total = runs.n_runs() * case.n_samples
    stops = [case.n_samples] if first is None or case.n_samples == 1 else [1, case.n_samples]
    for stop in stops:
        part = range(len(case.samples), stop)
        case.samples.extend(part_samples for (part_samples,) in runs.run(part, count.tick))
        count.tick(0)
        if first is not None and stop < case.n_samples:
            first(case.results(runs))
    return case.results(runs)


def refine_trace(
    model: LanguageModel,
    fact: Fact,
    config: TraceConfig | None = None,
    *,
    width: float = 0.0,
    step: int = 1,
    level: NoiseLevel | None = None,
    positions: Sequence[int | PositionName] | None = None,
    watch: Watch = UNWATCHED,
) -> Iterator[TraceResult]:
    """Yield the exact map of the first corrupted run, then of the first two, and so on: an unbiased preview.

    Each result equals that of `causal_trace` with that many samples.  It ends after `config.samples`, or as soon as no
    95 % interval of an indirect effect is wider than `width`.

    Args:
        width: of an interval, as a difference of probabilities; 0 runs all samples.
        step: samples between two results.

    Raises:
        ValueError: as in `causal_trace`, and if `width` is negative or `step` below 1.
    """
    if not width >= 0 or step < 1:
        raise ValueError(f"width is {width} and step {step}; expected a width of 0 or more and a step of 1 or more")
    count, configs = RunCount(watch), [config or TraceConfig()]
    count.tick(0)
    case = make_case(model, fact, configs, level or measure_noise(model), positions)
    runs = Engine(model, [case.prompt], configs, engine_for(model, run_hooked), run_hooked)
    count.total = runs.n_runs() * case.n_samples
    for start in range(0, case.n_samples, step):
        part = range(start, min(start + step, case.n_samples))
        case.samples.extend(part_samples for (part_samples,) in runs.run(part, count.tick))
        count.tick(0)
        (result,) = case.results(runs)
        yield result
        low, high = result.ci()
        if np.isfinite(high - low).any() and float(np.nanmax(high - low)) <= width:
            return
