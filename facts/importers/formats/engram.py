"""Our own form: JSON Lines, one case per line, with nothing of the source lost."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast, get_args

from facts.importers.fields import Fields
from facts.records import said, short_fact, short_probe, short_record
from facts.types import Case, EditRequest, Fact, Probe, ProbeKind

VERSION = 1
"""Of the form; a reader refuses newer ones."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Says so itself."""
    return "engram" in row


def record_of(case: Case) -> dict[str, Any]:
    """The case as JSON values; what is empty is left out."""
    return {
        "engram": VERSION,
        **said(
            id=case.id,
            source=case.source,
            requests=[short_record(request) for request in case.requests],
            known=[short_fact(fact) for fact in case.known],
            probes=[short_probe(probe) for probe in case.probes],
            names=[{"answer": answer, "names": list(names)} for answer, names in case.names],
            notes=list(case.notes),
            extra=dict(case.extra),
        ),
    }


def case_of(record: Mapping[str, Any]) -> Case:
    """The case that `record_of` was given.

    Raises:
        ValueError: naming the field that is missing or wrong.
    """
    return read(Fields(deepcopy(dict(record)), exact=True))


def read(row: Fields) -> Case:
    """One line as the case it was written from."""
    version = row.take("engram")
    if version != VERSION:
        raise row.error("engram", f"is version {version!r}; this program reads version {VERSION}")
    return Case(
        row.label("id"),
        tuple(
            EditRequest(_fact(part), part.text("target_new"), _probes(part), part.texts("generation_prompts"))
            for part in row.parts("requests")
        ),
        tuple(_fact(part) for part in row.parts("known")),
        _probes(row),
        tuple((part.text("answer"), part.texts("names")) for part in row.parts("names")),
        row.optional("source"),
        row.texts("notes"),
        row.take("extra") or {},
    )


def _fact(part: Fields) -> Fact:
    return Fact(part.text("subject"), part.text("template"), part.optional("target_true"), part.optional("relation"))


def _probes(part: Fields) -> tuple[Probe, ...]:
    return tuple(_probe(probe) for probe in part.parts("probes"))


def _probe(part: Fields) -> Probe:
    kind = part.text("kind")
    if kind not in get_args(ProbeKind):
        raise part.error("kind", f"is {kind!r}; expected one of {', '.join(get_args(ProbeKind))}")
    rule = part.optional("group_rule") or "any"
    if rule not in ("any", "all"):
        raise part.error("group_rule", f"is {rule!r}; expected any or all")
    return Probe(
        cast(ProbeKind, kind),
        part.text("prompt"),
        part.optional("answer"),
        tuple((step.text("prompt"), step.text("answer")) for step in part.parts("bridge")),
        part.texts("aliases"),
        part.optional("source"),
        part.optional("group"),
        "all" if rule == "all" else "any",
    )
