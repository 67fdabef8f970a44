"""The facts of a batch: the bundled atlas, or a file in any format that `facts.importers` reads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from facts import EditRequest, Fact
from facts.atlas import load_atlas
from facts.importers import Rejected, detect, read_cases
from facts.probes import edit_request
from facts.regular import check_regular
from facts.types import Case

ATLAS = "atlas"
PREVIEWED = 50
KEPT_REJECTED = 10_000
"""Rows set aside that can be downloaded; more are only counted."""


@dataclass(frozen=True)
class Dataset:
    """What a file holds."""

    title: str
    cases: int
    traceable: int
    """Facts with a true answer whose prompt names the subject."""
    editable: int
    """Cases with one rewrite."""
    noted: int
    """Cases with a note on what was assumed."""
    rejected: tuple[Rejected, ...]
    n_rejected: int
    rows: tuple[dict[str, str], ...]
    """The first cases, for a table."""

    @property
    def rejected_file(self) -> bytes:
        """The rows set aside as JSON Lines: row, line, field, reason, and the row itself."""
        return "".join(json.dumps(asdict(row)) + "\n" for row in self.rejected).encode()


def read_dataset(source: str, *, quote: bool = True) -> Dataset:
    """Read a whole file once.

    Args:
        source: "atlas", or a path.
        quote: whether errors may quote the file.  Not for files of the server, which the reader may not see.

    Raises:
        ValueError: if the file cannot be read or its format is not known.
    """
    if source == ATLAS:
        return _atlas()
    if quote:
        return _read(source)
    check_regular(source, "give the path of a JSON, JSONL or CSV file")
    try:
        dataset = _read(source)
    except ValueError:
        dataset = None
    if dataset is None or not dataset.cases:
        raise ValueError("the file cannot be read as a dataset; `python -m facts.importers` says why")
    reason = "`python -m facts.importers` says why"
    rejected = tuple(replace(row, field="", reason=reason, raw="") for row in dataset.rejected)
    return replace(dataset, rejected=rejected)


def _read(source: str) -> Dataset:
    title = detect(source).title
    rejected: list[Rejected] = []
    counts = {"cases": 0, "traceable": 0, "editable": 0, "noted": 0, "rejected": 0}

    def aside(row: Rejected) -> None:
        counts["rejected"] += 1
        if len(rejected) < KEPT_REJECTED:
            rejected.append(row)

    rows = []
    for case in read_cases(source, on_rejected=aside):
        counts["cases"] += 1
        counts["traceable"] += sum(_traceable(fact) for fact in case.facts)
        counts["editable"] += len(case.requests) == 1
        counts["noted"] += bool(case.notes)
        if len(rows) < PREVIEWED:
            rows.append(_row(case))
    if not counts["cases"] and not rejected:
        raise ValueError(f"{Path(source).name} holds no row; choose another file")
    return Dataset(
        title,
        counts["cases"],
        counts["traceable"],
        counts["editable"],
        counts["noted"],
        tuple(rejected),
        counts["rejected"],
        tuple(rows),
    )


def facts_of(source: str, seed: int) -> Iterator[Fact]:
    """The facts whose prompts name their subject, in an order drawn from the seed."""
    if source == ATLAS:
        atlas = load_atlas()
        yield from map(atlas.as_fact, _shuffled_atlas(seed))
        return
    for case in _shuffled(source, seed):
        yield from (fact for fact in case.facts if fact.names_subject)


def requests_of(source: str, seed: int) -> Iterator[EditRequest]:
    """The rewrites, in an order drawn from the seed; facts of the atlas get another answer of their relation."""
    if source == ATLAS:
        atlas = load_atlas()
        for row in _shuffled_atlas(seed):
            yield edit_request(atlas, atlas.as_fact(row), atlas.counterfactual(row, seed))
        return
    for case in _shuffled(source, seed):
        if len(case.requests) == 1:
            yield case.requests[0]


def _atlas() -> Dataset:
    facts = list(facts_of(ATLAS, 0))
    columns = ("subject", "prompt", "true answer", "new answer", "probes", "notes")
    rows = tuple(
        dict(zip(columns, (fact.subject, fact.prompt, fact.target_true, "drawn", "derived", ""), strict=True))
        for fact in facts[:PREVIEWED]
    )
    return Dataset("The bundled atlas", len(load_atlas().facts), len(facts), len(facts), 0, (), 0, rows)


def _shuffled_atlas(seed: int) -> list[object]:
    from experiments.plan_files import sample_facts

    usable = sum(not row.contains_answer for row in load_atlas().facts)
    return list(sample_facts(usable, seed))


def _shuffled(source: str, seed: int) -> list[Case]:
    cases = list(read_cases(source, on_rejected=lambda row: None))
    random.Random(f"cases|{seed}").shuffle(cases)
    return cases


def _traceable(fact: Fact) -> bool:
    return fact.names_subject and bool(fact.target_true.strip())


def _row(case: Case) -> dict[str, str]:
    fact = case.facts[0]
    more = f" (+{len(case.facts) - 1})" if len(case.facts) > 1 else ""
    new = case.requests[0].target_new if case.requests else ""
    return {
        "subject": fact.subject,
        "prompt": fact.prompt + more,
        "true answer": fact.target_true,
        "new answer": new,
        "probes": str(len(case.all_probes)),
        "notes": "; ".join(case.notes),
    }
