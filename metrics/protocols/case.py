"""Measure one case under several protocols, which share the readings of the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from facts import Case, EditRequest
from facts.watch import UNWATCHED, Watch
from metrics.protocols.base import Material, Task, Value
from metrics.protocols.readings import Needs, Readings, read
from metrics.protocols.registry import PROTOCOLS, get_protocol
from metrics.statistics import harmonic_mean

if TYPE_CHECKING:
    from models import LanguageModel


@dataclass(frozen=True)
class CaseScores:
    """One case's numbers under one protocol.  Intervals are over cases; `summarise` gives them."""

    protocol: str
    case: str
    values: Mapping[str, Value]
    """By name, as in the protocol's definitions."""
    model: str
    revision: str
    """Hash of the unedited weights."""
    edited_revision: str
    """Hash of the edited model: its weights and edits."""
    seed: int
    """Of the sampled texts."""
    way: str
    """The settings that have to be the same before numbers are averaged."""

    def to_record(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CaseScores:
        """The inverse of `to_record`."""
        values = {
            name: Value(**{**value, "left_out": tuple(tuple(entry) for entry in value["left_out"])})
            for name, value in record["values"].items()
        }
        return cls(**{**record, "values": values})


def evaluate_under(
    base: LanguageModel,
    edited: LanguageModel,
    case: Case | EditRequest,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    *,
    material: Material | None = None,
    before: Readings | None = None,
    watch: Watch = UNWATCHED,
) -> dict[str, CaseScores]:
    """Measure one case under several protocols, which share their readings.

    Args:
        before: from `base_readings`, for at least this case and these protocols; by default the base is read here.
        watch: checked after each batch.

    Raises:
        facts.watch.Cancelled: when the watch says so.
        ValueError: if a protocol is unknown or the case holds nothing to edit.
    """

    def tick(_: int) -> None:
        watch.check()

    whole, given = as_case(case), material or Material()
    # An edit that puts words before every prompt leaves less room; both models get only prompts that fit both.
    tasks = _tasks(min(base, edited, key=lambda model: model.max_positions), whole, protocols, given)
    seed = given.settings.seed
    if before is None:
        before = read(base, _union(task.base_needs for task in tasks.values()), seed=seed, tick=tick)
    after = read(edited, _union(task.needs for task in tasks.values()), seed=seed, tick=tick)
    return {
        name: CaseScores(
            protocol=name,
            case=whole.id,
            values=_with_derived(task.values(before, after), get_protocol(name).derived),
            model=base.name,
            revision=base.revision,
            edited_revision=edited.revision,
            seed=seed,
            way=given.settings.way,
        )
        for name, task in tasks.items()
    }


def base_readings(
    base: LanguageModel,
    cases: Sequence[Case | EditRequest],
    protocols: Sequence[str] = tuple(PROTOCOLS),
    *,
    material: Material | None = None,
) -> Readings:
    """The unedited model's readings for many cases, in full batches."""
    given = material or Material()
    tasks = [task for case in cases for task in _tasks(base, as_case(case), protocols, given).values()]
    return read(base, _union(task.base_needs for task in tasks), seed=given.settings.seed)


def as_case(case: Case | EditRequest) -> Case:
    """A request as a case named after its prompt.

    Raises:
        ValueError: if there is nothing to edit.
    """
    whole = Case(case.fact.prompt, (case,)) if isinstance(case, EditRequest) else case
    if not whole.requests:
        raise ValueError(f"case {whole.id!r} has no request, only facts to trace; there is no edit to evaluate")
    return whole


def _tasks(model: LanguageModel, case: Case, protocols: Sequence[str], material: Material) -> dict[str, Task]:
    settings = material.settings
    names = tuple(dict.fromkeys((*settings.aliases, *case.aliases)))
    own = replace(material, settings=replace(settings, aliases=names))
    return {name: get_protocol(name).prepare(model, case, own) for name in dict.fromkeys(protocols)}


def _union(needs: Iterable[Needs]) -> Needs:
    whole = Needs()
    for some in needs:
        whole |= some
    return whole


def _with_derived(values: dict[str, Value], derived: Mapping[str, tuple[str, ...]]) -> dict[str, Value]:
    for name, parts in derived.items():
        missing = [part for part in parts if values[part].after is None]
        if missing:
            values[name] = Value(None, None, 0, reason=f"{' and '.join(missing)} not measured")
            continue
        used = [values[part] for part in parts]
        before = harmonic_mean([value.before for value in used if value.before is not None])
        after = harmonic_mean([value.after for value in used if value.after is not None])
        values[name] = Value(before, after, sum(value.n for value in used))
    return values
