"""KnowEdit (Zhang et al. 2024, arXiv:2401.01286): wiki_recent, wiki_counterfact, ZsRE and WikiBio, read alike.

Answers are a text, a list of names, or a list of such lists.  `Reasoning` joins RippleEdits' two compositions; in ZsRE
it is a question one step on from the new answer.  Later files of wiki_recent and wiki_counterfact have a `rephrase`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, following, names_of, probe_of, request_of, staying, staying_prompts
from facts.importers.fields import Fields
from facts.types import Case


def _recognises(row: Mapping[str, Any]) -> bool:
    tests = [entry for name in ("portability", "locality") for entry in _groups(row.get(name))]
    return {"prompt", "target_new", "subject"} <= row.keys() and any(isinstance(entry, list) for entry in tests)


def _groups(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def recognises_wikibio(row: Mapping[str, Any]) -> bool:
    """The prompt is a passage, the new answer its next sentence."""
    return {"text", "labels", "concept"} <= row.keys()


def recognises_zsre(row: Mapping[str, Any]) -> bool:
    """Has a rephrased question."""
    return _recognises(row) and ("cond" in row or "rephrase_prompt" in row)


def recognises_counterfact(row: Mapping[str, Any]) -> bool:
    """Has the true answer."""
    return _recognises(row) and "ground_truth" in row


def recognises_recent(row: Mapping[str, Any]) -> bool:
    """Facts newer than the models, so without an old answer."""
    return _recognises(row)


def read(row: Fields) -> Case:
    """One row as a case."""
    prompt, target, subject = ("text", "labels", "concept") if "labels" in row else ("prompt", "target_new", "subject")
    new, true = row.answer(target), row.answers("ground_truth")
    is_zsre = "cond" in row or "rephrase_prompt" in row
    fact, notes = fact_of(row, prompt, subject, true[0] if true else "")
    paraphrases = [
        probe_of("paraphrase", text, [new], name)
        for name in ("rephrase_prompt", "rephrase")
        for text in row.texts(name)
    ]
    after, unasked = following(row, Reasoning="one_hop" if is_zsre else "reasoning")
    probes = [*paraphrases, *after, *staying(row, true), *staying_prompts(row, true)]
    request = request_of(row, target, fact, new, probes)
    return Case(row.label("case_id"), (request,), names=names_of(true), notes=(*notes, *unasked))
