"""zsRE as MEND split it (Mitchell et al. 2022; Levy et al. 2017), with or without Yao et al.'s (2023) portability.

The new answer is `alt`, the true ones `answers`.  `loc` is a question of Natural Questions that has nothing to do with
the edit; it keeps its "nq question: ".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """The question is `src`, the new answer `alt`."""
    return {"src", "alt"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case."""
    new, true = row.text("alt"), row.answers("answers")
    fact, notes = fact_of(row, "src", "subject", true[0] if true else "")
    probes = [probe_of("paraphrase", text, [new], "rephrase") for text in row.texts("rephrase")]
    if "loc" in row:
        probes.append(probe_of("unchanged", row.text("loc"), row.answers("loc_ans"), "loc"))
    if "portability" in row:
        hop = row.part("portability")
        probes.append(probe_of("one_hop", hop.text("New Question"), hop.some("New Answer"), "portability.New Question"))
    request = request_of(row, "alt", fact, new, probes)
    return Case(row.label("case_id"), (request,), names=names_of(true), notes=notes)
