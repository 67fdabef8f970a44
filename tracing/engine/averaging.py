"""Trace many facts and average their effects, with a journal from which a stopped run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facts import Fact
from facts.regular import check_regular
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from tracing.average import AverageEffects, by_category, map_name, not_positions
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel, measure_noise
from tracing.engine.plan import split
from tracing.engine.question import Question, ask
from tracing.engine.several import trace_facts
from tracing.storage import plain
from tracing.types import PositionName, TraceResult

JOURNAL = "engram-average-journal-1"
GROUP = 16
"""Facts that are checked together for whether the model knows them."""
ChooseCounterfactual = Callable[[Fact], str | None]
"""Another subject for a fact, or None where none aligns."""


@dataclass(frozen=True, eq=False)
class Record:
    """One fact's effects, or why it was left out."""

    prompt: str
    answer: str
    kept: bool
    reason: str
    """Why it was left out: "unknown" or "unaligned"; empty where it counts."""
    noise_std: float = math.nan
    noise_source: str = ""
    clean: float = math.nan
    corrupted: float = math.nan
    effects: dict[str, Any] | None = None
    """By map, [category, layer] as nested lists or an array."""
    template: str = ""
    """Of the fact, which says where in the prompt its subject stands; empty in older journals."""


def average_effects(
    model: LanguageModel,
    facts: Iterable[Fact],
    configs: Sequence[TraceConfig],
    *,
    level: NoiseLevel | None = None,
    positions: Sequence[PositionName] | None = None,
    counterfactual: ChooseCounterfactual | None = None,
    journal: str | Path | None = None,
    watch: Watch = UNWATCHED,
) -> AverageEffects:
    """Trace every known fact at every site and average.

    Args:
        facts: each needs its true answer.
        configs: one for each map; a severed variant of a site is another map.  All share one corruption.
        level: by default measured on the embeddings of the facts' subjects, as in the paper.
        positions: restrict to e.g. ("last_subject", "last_token"), many times faster; other categories are then NaN.
        counterfactual: for the corruption "token": gives each fact another subject, in place of the configs' subject.
        journal: a JSON Lines file to which every finished fact is added; facts in it are not traced again.
        watch: told (facts done, facts in all), and asked before every forward pass.

    Raises:
        Cancelled: when `watch` said so, within one forward pass; the journal keeps what was done.
        ValueError: if a fact has no answer, a map is given twice, the model knows none of the facts, or the journal
            belongs to a run with other settings.
    """
    chosen = list(facts)
    for fact in chosen:
        if not fact.target_true.strip():
            raise ValueError(f"the fact {fact.prompt!r} has no true answer; averages need one to tell known facts")
    names = [map_name(config) for config in configs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the maps {names} are none or repeat; give one config for each map")
    level = level or measure_noise(model, [fact.subject for fact in chosen])
    done = _Journal.open(journal, _settings(model, configs, level, positions))
    records: list[Record] = []
    for share in split(range(len(chosen)), GROUP):
        group = chosen[share.start : share.stop]
        pending = _records(model, group, done, _Job(configs, level, positions, counterfactual, watch))
        while len(records) < share.stop:
            records.append(next(pending))
            watch.step(len(records), len(chosen))
    if not any(record.kept for record in records):
        unaligned = sum(record.reason == "unaligned" for record in records)
        also = f" ({unaligned} more have no counterfactual that aligns)" if unaligned else ""
        raise ValueError(
            f"{model.name} answers none of the {len(chosen) - unaligned} facts correctly{also}; "
            "there is nothing to average"
        )
    return _average(model, configs, records, positions)


def knows(model: LanguageModel, question: Question) -> bool:
    """Whether the clean model's argmax is the answer, at each of its tokens given the earlier ones."""
    logits = model.logits(torch.tensor([question.ids]))[0, question.n_prompt - 1 :]
    return bool(logits.argmax(-1).tolist() == list(question.answer_ids))


@dataclass(frozen=True, eq=False)
class _Job:
    """The settings that all facts share."""

    configs: Sequence[TraceConfig]
    level: NoiseLevel
    positions: Sequence[PositionName] | None
    counterfactual: ChooseCounterfactual | None
    watch: Watch


def _records(model: LanguageModel, facts: Sequence[Fact], done: _Journal, job: _Job) -> Iterator[Record]:
    """A record for each fact in order, from the journal where it has one.

    All facts are checked before any is traced, so that the known ones can share sweeps.
    """
    kept: dict[int, Record] = {}
    others: list[str] = []
    for number, fact in enumerate(facts):
        if (record := done.get(fact)) is not None:
            kept[number] = record
        elif not knows(model, ask(model, fact)):
            kept[number] = Record(fact.prompt, fact.target_true, False, "unknown", template=fact.template)
        elif job.counterfactual is not None:
            other = job.counterfactual(fact)
            if other is None:
                kept[number] = Record(fact.prompt, fact.target_true, False, "unaligned", template=fact.template)
            else:
                others.append(other)
    counted = [fact for number, fact in enumerate(facts) if number not in kept]
    configs = list(job.configs)
    if job.counterfactual is not None:  # replaced by each fact's own subject
        configs = [replace(config, corruption="token", counterfactual="chosen for each fact") for config in configs]
    traced = trace_facts(
        model,
        counted,
        configs,
        counterfactuals=None if job.counterfactual is None else others,
        level=job.level,
        positions=job.positions,
        watch=Watch(cancelled=job.watch.cancelled),
    )
    for number, fact in enumerate(facts):
        record = kept.get(number) or _record(fact, next(traced), job.counterfactual is not None)
        done.add(record)
        yield record


def _record(fact: Fact, results: Sequence[TraceResult], own_counterfactual: bool) -> Record:
    first = results[0]
    return Record(
        fact.prompt,
        fact.target_true,
        True,
        "",
        first.noise_std,
        "another subject of as many tokens for each fact" if own_counterfactual else first.corruption,
        float(first.clean),
        float(first.corrupted.mean()),
        {map_name(result.config): by_category(result) for result in results},
        fact.template,
    )


def _average(
    model: LanguageModel,
    configs: Sequence[TraceConfig],
    records: Sequence[Record],
    positions: Sequence[PositionName] | None,
) -> AverageEffects:
    counted = [record for record in records if record.kept]
    effects = {map_name(config): _stack([record.effects or {} for record in counted], config) for config in configs}
    if positions is not None:  # only one-token subjects would have a first token here, a biased sample
        for effect in effects.values():
            effect[:, not_positions(positions)] = np.nan
    return AverageEffects(
        configs=tuple(configs),
        model_name=model.name,
        revision=model.revision,
        noise_std=counted[0].noise_std,
        noise_source=counted[0].noise_source,
        prompts=tuple(record.prompt for record in counted),
        unknown=tuple(record.prompt for record in records if record.reason == "unknown"),
        unaligned=tuple(record.prompt for record in records if record.reason == "unaligned"),
        clean=np.array([record.clean for record in counted], dtype=np.float32),
        corrupted=np.array([record.corrupted for record in counted], dtype=np.float32),
        effects=effects,
    )


def _stack(effects: Sequence[dict[str, Any]], config: TraceConfig) -> NDArray[np.float32]:
    """[fact, category, layer]; None in lists becomes NaN."""
    return np.stack([np.array(by_map[map_name(config)], dtype=np.float32) for by_map in effects])


def _settings(
    model: LanguageModel,
    configs: Sequence[TraceConfig],
    level: NoiseLevel,
    positions: Sequence[PositionName] | None,
) -> dict[str, Any]:
    """The settings that must be equal for a run to resume from a journal."""
    return {
        "kind": JOURNAL,
        "revision": model.revision,
        **({"chat": True} if model.chat else {}),
        "configs": [asdict(config) for config in configs],
        "sigma": level.sigma,
        "positions": None if positions is None else sorted(positions),
    }


class _Journal:
    """A JSON Lines file: settings in the first line, then one finished fact per line."""

    def __init__(self, path: Path | None, records: dict[tuple[str, str, str], Record]) -> None:
        self._path, self._records = path, records

    @classmethod
    def open(cls, path: str | Path | None, settings: dict[str, Any]) -> _Journal:
        """Read the journal, or begin one.

        Raises:
            ValueError: if the file is not a journal, or its settings differ.
        """
        if path is None:
            return cls(None, {})
        path = Path(path)
        check_regular(path, "name a new file")
        if not path.exists():
            path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            return cls(path, {})
        text = path.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:  # the run stopped while it wrote this line
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")
        try:
            header, *lines = [json.loads(line) for line in whole.splitlines()]
            records = [Record(**line) for line in lines]
            other = [name for name in {**settings, **header} if header.get(name) != settings.get(name)]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{str(path)!r} is not a journal of average_effects; name a new file") from None
        if other:
            raise ValueError(f"the journal {str(path)!r} is of a run with other {', '.join(other)}; name a new file")
        return cls(path, {(record.prompt, record.answer, record.template): record for record in records})

    def get(self, fact: Fact) -> Record | None:
        """The fact's record, or None."""
        found = (self._records.get((fact.prompt, fact.target_true, template)) for template in (fact.template, ""))
        return next(filter(None, found), None)

    def add(self, record: Record) -> None:
        """Append a new record at once, so that a stop loses at most one group of facts."""
        if self._path is None or (record.prompt, record.answer, record.template) in self._records:
            return
        values = {name: value for name, value in vars(record).items() if not _is_nan(value)}
        if record.effects is not None:
            values["effects"] = {name: plain(np.asarray(effect)) for name, effect in record.effects.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
