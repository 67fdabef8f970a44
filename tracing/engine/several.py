"""Trace a list of facts, several prompts per sweep if that saves work.  The numbers equal those of one at a time.

Prompts that share a sweep are laid end to end in one row and do not read one another.  One forward captures all of
them, and a pack holds suffixes of several.  This helps where a single prompt has few positions and few samples, so that
its passes would be too small.  A prompt with a whole map fills its passes and is traced alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.forwards.hooks import run_hooked
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel, measure_noise
from tracing.engine.case import Case, RunCount, make_case
from tracing.engine.engine import Engine
from tracing.engine.plan import pack_limit
from tracing.engine.probe import EngineName, engine_for
from tracing.types import PositionName, TraceResult


def trace_facts(
    model: LanguageModel,
    facts: Sequence[Fact],
    configs: Sequence[TraceConfig],
    *,
    counterfactuals: Sequence[str] | None = None,
    level: NoiseLevel | None = None,
    positions: Sequence[PositionName] | None = None,
    together: int | None = None,
    engine: EngineName | None = None,
    watch: Watch = UNWATCHED,
) -> Iterator[tuple[TraceResult, ...]]:
    """Yield the results of `trace_all` for each fact in order, as soon as its group of facts is done.

    Args:
        counterfactuals: for the corruption "token", another subject for each fact, in place of the configs' subject.
        level: by default measured on the embeddings of the facts' subjects.
        together: most facts per sweep; by default as many as fill a pack, and one if several side by side are not exact
            (`tracing.engine.probe`).
        engine: as in `trace_all`.
        watch: told (facts done, facts in all), and asked before every forward pass.

    Raises:
        Cancelled: when `watch` said so, at most one forward pass later.
        ValueError: as in `trace_all`; if `together` is below 1, or the numbers of counterfactuals and facts differ.
    """
    if together is not None and together < 1:
        raise ValueError(f"together is {together}; expected 1 or more facts to a sweep")
    if counterfactuals is not None and len(counterfactuals) != len(facts):
        raise ValueError(f"{len(counterfactuals)} counterfactuals for {len(facts)} facts; give one for each")
    level = level or measure_noise(model, [fact.subject for fact in facts])
    name = engine or engine_for(model, run_hooked)
    if name == "replay" or engine_for(model, run_hooked, prompts=2) == "replay":
        together = 1
    count, done = RunCount(Watch(cancelled=watch.cancelled)), 0
    for group in _groups(_cases(model, facts, configs, counterfactuals, level, positions), together):
        count.tick(0)
        runs = Engine(model, [case.prompt for case in group], group[0].configs, name, run_hooked)
        count.total += runs.n_runs() * group[0].n_samples
        for parts in runs.run(range(group[0].n_samples), count.tick):
            for case, part in zip(group, parts, strict=True):
                case.samples.append(part)
        for case in group:
            done += 1
            yield case.results(runs)
            watch.step(done, len(facts))


def _cases(
    model: LanguageModel,
    facts: Sequence[Fact],
    configs: Sequence[TraceConfig],
    counterfactuals: Sequence[str] | None,
    level: NoiseLevel,
    positions: Sequence[PositionName] | None,
) -> Iterator[Case]:
    """The case of every fact, in order."""
    for number, fact in enumerate(facts):
        own = configs
        if counterfactuals is not None:
            own = [replace(config, counterfactual=counterfactuals[number]) for config in configs]
        yield make_case(model, fact, own, level, positions)


def _groups(cases: Iterator[Case], together: int | None) -> Iterator[list[Case]]:
    """Consecutive cases, as many as may share a sweep."""
    group: list[Case] = []
    for case in cases:
        full = len(group) == together
        if group and (full or (together is None and _size([*group, case]) > pack_limit(case.model.d_model))):
            yield group
            group = []
        group.append(case)
    if group:
        yield group


def _size(cases: Sequence[Case]) -> int:
    """Packed positions of all restored runs of these cases."""
    return sum(
        len(case.prompt.question.ids) - pos
        for case in cases
        for pos in case.prompt.positions
        if pos >= case.prompt.question.subject.start
    )
