"""Leaderboards: methods sorted by their scores, one table for each protocol.

Only facts that every method has edited, at every layer, count, so that all methods are judged on the same facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.shared.wording import NONE, Cells, amount
from experiments.cells.protocols import subject_of
from experiments.ledger.records import Entry
from metrics.definitions import METRICS, PROMPTED

if TYPE_CHECKING:
    from metrics.protocols import CaseScores

Contestant = tuple[str, int | None]
"""(method, layer)."""


@dataclass(frozen=True, eq=False)
class Board:
    """The methods under one protocol."""

    protocol: str
    n_facts: int
    rows: tuple[dict[str, Any], ...]
    """A method each, the best first: means in percent."""
    details: tuple[Cells, ...]
    """A number each, with the unedited model's, the change, the interval and n."""
    missing: tuple[str, ...]
    """Headlines that no method has a number of."""


@dataclass(frozen=True)
class Mean:
    """One headline number of one contestant."""

    before: float | None
    after: float
    ci: tuple[float, float] | None
    n: int
    unit: str


def boards(finished: Iterable[Entry]) -> tuple[Board, ...]:
    """A leaderboard for each protocol of the finished cells."""
    edited = [entry for entry in finished if entry.kind in ("edit", "protocols")]
    judged = _judged(edited)
    if not judged:
        return ()
    means = _protocol_means([entry for entry in judged if entry.kind == "protocols"])
    for protocol, of_protocol in _edit_means([entry for entry in judged if entry.kind == "edit"]).items():
        means.setdefault(protocol, {}).update(of_protocol)
    n = len({subject_of(entry.spec) for entry in judged})
    return tuple(_board(protocol, n, means[protocol]) for protocol in sorted(means))


def score_records(finished: Iterable[Entry]) -> list[dict[str, Any]]:
    """Every score of every finished edit, with its method, layer, subject and new answer."""
    rows = []
    for entry in finished:
        spec, scores = entry.spec, (entry.result or {}).get("scores", {})
        if entry.kind not in ("edit", "protocols"):
            continue
        about = {name: spec.get(name) for name in ("method", "layer", "seed")}
        about |= _rewritten(spec) | {"cell": entry.key[:12]}
        if entry.kind == "edit":
            rows += [about | score for score in scores]
            continue
        for protocol, record in scores.items():
            for name, value in record["values"].items():
                numbers = {key: value[key] for key in ("before", "after", "n", "reason")}
                rows.append(about | {"protocol": protocol, "name": name} | numbers)
    return rows


def _rewritten(spec: Mapping[str, Any]) -> dict[str, str]:
    """Subject and new answer of the first edit."""
    if "case" in spec:
        request = spec["case"]["requests"][0]
        return {"subject": request["subject"], "target_new": request["target_new"]}
    return {"subject": spec["request"]["fact"]["subject"], "target_new": spec["request"]["target_new"]}


def _contestant(entry: Entry) -> Contestant:
    return entry.spec["method"], entry.spec.get("layer")


def _judged(edited: Sequence[Entry]) -> list[Entry]:
    """The cells whose fact every contestant has edited."""
    facts: dict[Contestant, set[str]] = {}
    for entry in edited:
        facts.setdefault(_contestant(entry), set()).add(subject_of(entry.spec))
    shared = set.intersection(*facts.values()) if facts else set()
    return [entry for entry in edited if subject_of(entry.spec) in shared]


Means = dict[str, dict[Contestant, dict[str, Mean]]]
"""protocol -> contestant -> metric."""


def _protocol_means(judged: Sequence[Entry]) -> Means:
    if not judged:
        return {}
    from experiments.cells.protocols import scores_of
    from metrics.protocols import get_protocol, summarise

    cases: dict[str, dict[Contestant, list[CaseScores]]] = {}
    for entry in judged:
        for protocol, scores in scores_of(entry.result or {}).items():
            cases.setdefault(protocol, {}).setdefault(_contestant(entry), []).append(scores)
    means: Means = {}
    for protocol, by_contestant in cases.items():
        heads = {name: str(metric) for metric, name in get_protocol(protocol).headlines.items()}
        for contestant, some in by_contestant.items():
            of_contestant = {
                heads[score.name]: Mean(score.before, score.value, score.ci, score.n, score.unit)
                for score in summarise(some).scores
                if score.name in heads and score.value is not None
            }
            means.setdefault(protocol, {})[contestant] = of_contestant
    return means


def _edit_means(judged: Sequence[Entry]) -> Means:
    if not judged:
        return {}
    from metrics.statistics import bootstrap

    heads = {f"{name}.{METRICS[name].headline}": name for name in PROMPTED}
    values: dict[tuple[str, Contestant, str], list[Mapping[str, Any]]] = {}
    for entry in judged:
        for score in (entry.result or {})["scores"]:
            if score["name"] in heads and score["after"] is not None:
                key = (score["protocol"], _contestant(entry), heads[score["name"]])
                values.setdefault(key, []).append(score)
    means: Means = {}
    for (protocol, contestant, metric), some in values.items():
        after = [float(score["after"]) for score in some]
        before = [float(score["before"]) for score in some if score["before"] is not None]
        base = sum(before) / len(before) if before else None
        mean = Mean(base, sum(after) / len(after), bootstrap(after, seed=0), len(after), some[0]["unit"])
        means.setdefault(protocol, {}).setdefault(contestant, {})[metric] = mean
    return means


def _board(protocol: str, n_facts: int, means: Mapping[Contestant, Mapping[str, Mean]]) -> Board:
    from editing import METHODS

    def height(contestant: Contestant) -> tuple[float, ...]:
        return tuple(means[contestant][name].after if name in means[contestant] else -1.0 for name in PROMPTED)

    ordered = sorted(means, key=height, reverse=True)
    shown = [name for name in PROMPTED if any(name in of_contestant for of_contestant in means.values())]
    rows, details = [], []
    for method, layer in ordered:
        title = METHODS[method].title if method in METHODS else method
        about = {"method": title, "layer": NONE if layer is None else str(layer)}
        of_contestant = means[method, layer]
        rows.append(
            about
            | {name: round(100 * of_contestant[name].after, 1) if name in of_contestant else None for name in shown}
        )
        details += [about | _detail(name, of_contestant[name]) for name in shown if name in of_contestant]
    missing = tuple(name for name in PROMPTED if name not in shown)
    return Board(protocol, n_facts, tuple(rows), tuple(details), missing)


def _detail(metric: str, mean: Mean) -> Cells:
    unit, change = mean.unit, None if mean.before is None else mean.after - mean.before
    ends = None if mean.ci is None else tuple(amount(end, unit) for end in mean.ci)
    return {
        "metric": metric.capitalize(),
        "before": NONE if mean.before is None else amount(mean.before, unit),
        "after": amount(mean.after, unit),
        "change": NONE if change is None else amount(change, unit, signed=True),
        "95 % interval": NONE if ends is None else f"{ends[0].removesuffix(' %')} to {ends[1]}",
        "facts": str(mean.n),
    }
