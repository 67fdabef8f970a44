"""WikiBigEdit (Thede et al. 2025, arXiv:2503.05683): questions on what changed in Wikidata between two dumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """The question is `update`, its answer `ans`."""
    return {"update", "ans"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case.  A persona's question is a paraphrase in another voice."""
    new, true = row.answer("ans"), row.answers("ground_truth")
    fact, notes = fact_of(row, "update", "subject", true[0] if true else "", row.optional("relation"))
    probes = [probe_of("paraphrase", text, [new], "rephrase") for text in row.texts("rephrase")]
    for field in (name for name in row if name.startswith("personas")):
        probes += [probe_of("paraphrase", text, [new], field) for text in row.texts(field)]
    if "mhop" in row:
        if "mhop_ans" not in row:
            raise row.error("mhop_ans", "is missing beside a multi-hop question")
        probes.append(probe_of("multi_hop", row.text("mhop"), row.answers("mhop_ans"), "mhop"))
    if "loc" in row:
        probes.append(probe_of("unchanged", row.text("loc"), row.answers("loc_ans"), "loc"))
    return Case("", (request_of(row, "ans", fact, new, probes),), names=names_of(true), notes=notes)
