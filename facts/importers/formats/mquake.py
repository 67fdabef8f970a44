"""MQuAKE-CF and MQuAKE-T (Zhong et al. 2023, arXiv:2305.14795): edits made together, asked for by multi-hop questions.

A case is right when any of its three questions is.  A multi-hop question depends on the hops that are not edited: the
unedited model must know them, or the question is not counted.  The chains before and after the edit stay in `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case, EditRequest, Probe


def recognises(row: Mapping[str, Any]) -> bool:
    """The rewrites are a list; CounterFact has one object."""
    return isinstance(row.get("requested_rewrite"), list)


def read(row: Fields) -> Case:
    """One row as a case."""
    rewrites = row.parts("requested_rewrite")
    if not rewrites:
        raise row.error("requested_rewrite", "is empty; expected at least one rewrite")
    read_rewrites = [_request(rewrite) for rewrite in rewrites]
    requests = tuple(request for request, _ in read_rewrites)
    hops, old_hops = (
        [(hop.text("cloze"), hop.answer("answer"), hop.answers("answer_alias")) for hop in row.copied(name)]
        for name in ("new_single_hops", "single_hops")
    )
    edited = {(request.fact.prompt, request.target_new) for request in requests}
    bridge = tuple((cloze, answer) for cloze, answer, _ in hops if (cloze, answer) not in edited)
    answers = (row.answer("new_answer"), *row.answers("new_answer_alias"))
    probes = tuple(
        Probe("multi_hop", question, answers[0], bridge, answers[1:], "questions", "questions")
        for question in row.texts("questions")
    )
    if not probes:
        raise row.error("questions", "is missing")
    names = names_of(*dict.fromkeys((answer, *aliases) for _, answer, aliases in (*hops, *old_hops)))
    notes = tuple(note for _, found in read_rewrites for note in found)
    return Case(row.label("case_id"), requests, probes=probes, names=names, notes=notes)


def _request(rewrite: Fields) -> tuple[EditRequest, tuple[str, ...]]:
    new, true = rewrite.answer("target_new"), rewrite.answers("target_true")
    fact, notes = fact_of(rewrite, "prompt", "subject", true[0] if true else "", rewrite.optional("relation_id"))
    probes = [probe_of("paraphrase", text, [new], "requested_rewrite.question") for text in rewrite.texts("question")]
    return request_of(rewrite, "target_new", fact, new, probes), notes
