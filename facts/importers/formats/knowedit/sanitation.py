"""Sanitation of KnowEdit (Ishibashi and Shimodaira 2023): one object with questions to forget and questions to keep.

EasyEdit calls the two lists `success` and `locality`, the older files `K_F` and `K_R`.  Each question to forget is a
case; the questions to keep are dealt out among the cases in turn, so that each is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.errors import RowError
from facts.importers.fields import Fields
from facts.types import Case

_LISTS = (("success", "locality"), ("K_F", "K_R"))


def recognises(row: Mapping[str, Any]) -> bool:
    """The whole file is one object of two lists."""
    return _lists(row) is not None


def _lists(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]] | None:
    """(questions to forget, questions to keep), under either pair of names."""
    found = ((row.get(forget), row.get(keep)) for forget, keep in _LISTS)
    return next(((a, b) for a, b in found if isinstance(a, list) and isinstance(b, list)), None)


def expand(document: Mapping[str, Any]) -> Iterator[Any]:
    """The questions to forget, each with its share of those to keep.

    Raises:
        RowError: if the object does not hold the two lists.
    """
    lists = _lists(document)
    if lists is None:
        raise RowError("", "does not hold two lists; expected success and locality, or K_F and K_R")
    forget, keep = lists
    for index, row in enumerate(forget):
        yield {**row, "locality": keep[index :: len(forget)]} if isinstance(row, dict) else row


def read(row: Fields) -> Case:
    """One question to forget.  No subject is given."""
    new, true = row.answer("target_new"), row.answers("ground_truth")
    fact, notes = fact_of(row, "question", "subject", true[0] if true else "")
    probes = [
        probe_of("unchanged", kept.text("question"), kept.answers("ground_truth"), "locality")
        for kept in row.parts("locality")
    ]
    return Case("", (request_of(row, "target_new", fact, new, probes),), names=names_of(true), notes=notes)
