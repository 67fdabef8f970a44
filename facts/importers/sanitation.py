"""Sanitation of KnowEdit (Ishibashi and Shimodaira 2023): one object with questions to forget and questions to keep.

EasyEdit calls the two lists `success` and `locality`, the older files `K_F` and `K_R`.  Each question to forget is a
case; the questions to keep are dealt out among the cases in turn, so that each is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case

_LISTS = (("success", "locality"), ("K_F", "K_R"))


def recognises(row: Mapping[str, Any]) -> bool:
    """The whole file is one object of two lists."""
    return any(isinstance(row.get(forget), list) and isinstance(row.get(keep), list) for forget, keep in _LISTS)


def expand(document: Mapping[str, Any]) -> Iterator[Any]:
    """The questions to forget, each with its share of those to keep."""
    forget, keep = next((document[a], document[b]) for a, b in _LISTS if a in document and b in document)
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
