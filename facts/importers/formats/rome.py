"""ROME's request (Meng et al. 2022): a prompt with `{}`, its subject, and the targets as {"str": ...}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, request_of, staying_prompts
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """The target is an object."""
    return "prompt" in row and isinstance(row.get("target_new"), dict)


def read(row: Fields) -> Case:
    """One request as a case.  Probes are those of `locality_prompt`, if there is one."""
    new, true = row.some("target_new"), row.answers("target_true")
    fact, notes = fact_of(row, "prompt", "subject", true[0] if true else "", row.optional("relation_id"))
    request = request_of(row, "target_new", fact, new[0], staying_prompts(row, true))
    return Case(row.label("case_id"), (request,), names=names_of(new, true), notes=notes)
