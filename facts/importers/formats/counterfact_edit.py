"""counterfact-edit, EasyEdit's flat form of CounterFact: one rephrase and one locality prompt per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of, staying_prompts
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """Locality is one prompt and one answer; CKnowEdit has lists of them under other names."""
    return {"locality_prompt", "locality_ground_truth", "target_new"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case.  The locality prompt is a neighbour where its answer is the edited fact's true one."""
    new, true = row.answer("target_new"), row.answers("ground_truth")
    fact, notes = fact_of(row, "prompt", "subject", true[0] if true else "")
    probes = [probe_of("paraphrase", text, [new], "rephrase_prompt") for text in row.texts("rephrase_prompt")]
    probes += staying_prompts(row, true)
    request = request_of(row, "target_new", fact, new, probes)
    return Case(row.label("case_id"), (request,), names=names_of(true), notes=notes)
