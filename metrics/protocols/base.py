"""A protocol: an id, the numbers it reports, and a task that computes them from two models' readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from facts import Case, Probe
from metrics.fluency import References
from metrics.protocols.readings import Needs, Readings
from metrics.types import Definition, Settings

if TYPE_CHECKING:
    from models import LanguageModel

Entry = tuple[float, float] | str
"""One prompt's number (before, after), or the reason why it has none."""

NO_ANSWER = "no answer is given"
"""Why a probe has no number."""


@dataclass(frozen=True)
class Value:
    """One number of one case."""

    before: float | None
    """Of the unedited model."""
    after: float | None
    """Of the edited one; None: not measured."""
    n: int
    """Prompts it is taken over."""
    left_out: tuple[tuple[str, int], ...] = ()
    """(reason, number of prompts) not counted."""
    reason: str = ""
    """Why it was not measured."""


class Task(Interface):
    """One case under one protocol."""

    @property
    def needs(self) -> Needs:
        """What both models are asked."""

    @property
    def base_needs(self) -> Needs:
        """What the unedited model is asked: `needs`, and the facts it must know for a prompt to count."""

    def values(self, before: Readings, after: Readings) -> dict[str, Value]:
        """Every number of the protocol's definitions that is not derived from others."""


@dataclass(frozen=True)
class Material:
    """Settings of the measurement, and reference texts."""

    settings: Settings = field(default_factory=Settings)
    references: References | None = None


@dataclass(frozen=True)
class Protocol:
    """A named protocol."""

    id: str
    title: str
    source: str
    """The papers and the code it follows."""
    definitions: Mapping[str, Definition]
    """Every number it reports, by name."""
    headlines: Mapping[str, str]
    """The number nearest to each of the five metrics."""
    prepare: Callable[[LanguageModel, Case, Material], Task]
    """Makes the task of one case, with the model of the two that has less room for prompts."""
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Numbers that are the harmonic mean of others, within a case and of the means over cases."""


def gathered(entries: Iterable[Entry], noun: str) -> Value:
    """The mean over prompts; those without a number are left out, with the reason."""
    listed = list(entries)
    pairs = [entry for entry in listed if not isinstance(entry, str)]
    left_out = tuple(Counter(entry for entry in listed if isinstance(entry, str)).most_common())
    if not pairs:
        reasons = "; ".join(f"{count} of {len(listed)} {noun} left out: {reason}" for reason, count in left_out)
        return Value(None, None, 0, left_out, reasons or f"no {noun} were given")
    return Value(fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs), len(pairs), left_out)


def overall(values: Sequence[Value], noun: str) -> Value:
    """The mean over groups of prompts; each measured group weighs the same."""
    measured = [(value.before, value.after) for value in values if value.before is not None and value.after is not None]
    if not measured:
        return Value(None, None, 0, reason=f"no {noun} were measured")
    n = sum(value.n for value in values)
    return Value(fmean(before for before, _ in measured), fmean(after for _, after in measured), n)


def joined(probes: Sequence[Probe], entries: Sequence[Entry]) -> list[Entry]:
    """Merge the entries of each group into one: its best (any) or worst (all) numbers."""
    groups: dict[str, list[Entry]] = {}
    for index, (probe, entry) in enumerate(zip(probes, entries, strict=True)):
        groups.setdefault(probe.group or f"#{index}", []).append(entry)
    rules = {probe.group: probe.group_rule for probe in probes}
    return [_best_or_worst(group, max if rules.get(name, "any") == "any" else min) for name, group in groups.items()]


def _best_or_worst(entries: Sequence[Entry], choose: Callable[[Iterable[float]], float]) -> Entry:
    pairs = [entry for entry in entries if not isinstance(entry, str)]
    return (choose(before for before, _ in pairs), choose(after for _, after in pairs)) if pairs else entries[0]
