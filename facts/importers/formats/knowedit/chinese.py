"""CKnowEdit (Fang et al. 2024, arXiv:2409.05806): Chinese knowledge; lists of prompts beside lists of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case, Probe, ProbeKind


def recognises(row: Mapping[str, Any]) -> bool:
    """Its own word for the true answer."""
    return {"prompt", "target_old", "target_new"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case."""
    new, true = row.answer("target_new"), row.answers("target_old")
    fact, notes = fact_of(row, "prompt", "subject", true[0] if true else "")
    probes = [probe_of("paraphrase", text, [new], "rephrase") for text in row.texts("rephrase")]
    probes += _paired(row, "portability", "reasoning")
    probes += _paired(row, "locality", "unchanged")
    request = request_of(row, "target_new", fact, new, probes)
    return Case(row.label("id"), (request,), names=names_of(true), notes=notes)


def _paired(row: Fields, name: str, kind: ProbeKind) -> list[Probe]:
    stated = f"{name}_answer" in tuple(row)
    prompts, answers = row.texts(f"{name}_prompt"), row.texts(f"{name}_answer")
    if kind == "unchanged" and not stated:  # without answers, only before and after can be compared
        return [probe_of(kind, prompt, [], f"{name}_prompt") for prompt in prompts]
    if len(prompts) != len(answers):
        raise row.error(f"{name}_answer", f"has {len(answers)} answers for {len(prompts)} prompts; expected one each")
    return [probe_of(kind, prompt, [answer], f"{name}_prompt") for prompt, answer in zip(prompts, answers, strict=True)]
