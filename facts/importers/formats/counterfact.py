"""CounterFact and multi_counterfact (Meng et al. 2022, appendix D; rome.baulab.info): one rewrite and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """The rewrite is one object; MQuAKE has a list of them, and EasyEdit's results call the true answer otherwise."""
    rewrite = row.get("requested_rewrite")
    return isinstance(rewrite, dict) and "ground_truth" not in rewrite


def read(row: Fields) -> Case:
    """One row as a case."""
    rewrite = row.part("requested_rewrite")
    new, true = rewrite.some("target_new"), rewrite.some("target_true")
    fact, notes = fact_of(rewrite, "prompt", "subject", true[0], rewrite.optional("relation_id"))
    probes = [
        *(probe_of("paraphrase", text, new, "paraphrase_prompts") for text in row.texts("paraphrase_prompts")),
        *(probe_of("neighborhood", text, true, "neighborhood_prompts") for text in row.texts("neighborhood_prompts")),
        *(probe_of("attribute", text, new, "attribute_prompts") for text in row.texts("attribute_prompts")),
    ]
    request = request_of(rewrite, "target_new", fact, new[0], probes, row.texts("generation_prompts"))
    return Case(row.label("case_id"), (request,), names=names_of(new, true), notes=notes)
