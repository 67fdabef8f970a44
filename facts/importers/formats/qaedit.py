"""QAEdit (Yang et al. 2025, "The Mirage of Model Editing", arXiv:2502.11177): questions a model gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """The answer is `target`, and locality a list of five questions."""
    return {"prompt", "target", "rephrase"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case."""
    targets = row.some("target")
    fact, notes = fact_of(row, "prompt", "subject")
    probes = [probe_of("paraphrase", text, targets, "rephrase") for text in row.texts("rephrase")]
    for question in row.parts("locality"):
        probes.append(probe_of("unchanged", question.text("loc"), question.answers("loc_ans"), "locality"))
    request = request_of(row, "target", fact, targets[0], probes)
    return Case(row.label("id"), (request,), names=names_of(targets), notes=notes)
