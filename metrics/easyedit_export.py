"""Results in the format of EasyEdit's `results.json`, for scripts that read those.

    {case_id, requested_rewrite, time,
     pre: {rewrite_acc: [..], rephrase_acc: [..], portability: {k_acc: [..]}, fluency: {ngram_entropy}},
     post: {the same, and locality: {k_acc: [..]}, metric_meta}}

as `editors/editor.py` and `evaluate/evaluate.py` of zjunlp/EasyEdit write it.  Values that were not measured are
left out.  `metric_meta` names the protocol; numbers of different protocols cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from facts import Case, EditRequest, Probe
from metrics.asking.prompts import LOCALITY_KINDS, PORTABILITY_KINDS
from metrics.protocols import CaseScores

AXES: Mapping[str, str] = {
    "same_subject": "Relation_Specificity",
    "forgetfulness": "Forgetfulness",
    "alias": "Subject_Aliasing",
    "logical": "Logical_Generalization",
    "compositional_2": "Compositionality_II",
}
"""EasyEdit's names for kinds of probes, where they differ."""


def easyedit_result(case: Case, scores: CaseScores, seconds: float | None = None) -> dict[str, Any]:
    """One case measured under the protocol `easyedit`, as one entry of `results.json`.

    Lists hold one number, the mean over prompts.  A case of several edits has a list of them as `requested_rewrite`.

    Args:
        seconds: wall time of computing the edit.

    Raises:
        ValueError: if the scores are of another protocol or another case.
    """
    if scores.protocol != "easyedit":
        raise ValueError(
            f"the scores are of the protocol {scores.protocol!r}; EasyEdit's shape holds those of 'easyedit' only"
        )
    if scores.case != case.id:
        raise ValueError(f"the scores are of case {scores.case!r}, not of {case.id!r}; give the case they belong to")
    rewrites = [_rewrite(request, (*request.probes, *case.probes)) for request in case.requests]
    before = {name: value.before for name, value in scores.values.items()}
    after = {name: value.after for name, value in scores.values.items()}
    return {
        "case_id": case.id,
        "requested_rewrite": rewrites[0] if len(rewrites) == 1 else rewrites,
        **({} if seconds is None else {"time": seconds}),
        "pre": {**_quality(before), **_fluency(before)},
        "post": {
            **_quality(after),
            **_kinds(after, "locality", LOCALITY_KINDS),
            **_fluency(after),
            "metric_meta": _meta(scores.protocol, scores.seed, scores.model, scores.revision),
        },
    }


def _rewrite(request: EditRequest, probes: Sequence[Probe]) -> dict[str, Any]:
    """The request in EasyEdit's format; an unknown true answer is None."""
    paraphrases = request.of_kind("paraphrase")
    return {
        "prompt": request.fact.prompt,
        "target_new": request.target_new,
        "ground_truth": request.fact.target_true or None,
        "subject": request.fact.subject,
        **({"rephrase_prompt": paraphrases[0].prompt} if paraphrases else {}),
        "locality": _asked(probes, LOCALITY_KINDS),
        "portability": _asked(probes, PORTABILITY_KINDS),
    }


def _asked(probes: Sequence[Probe], kinds: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    groups: dict[str, dict[str, list[str]]] = {}
    for probe in (probe for probe in probes if probe.kind in kinds):
        group = groups.setdefault(AXES.get(probe.kind, probe.kind), {"prompt": [], "ground_truth": []})
        group["prompt"].append(probe.prompt)
        group["ground_truth"].append(probe.answer)
    return groups


def _quality(values: Mapping[str, float | None]) -> dict[str, Any]:
    direct = {name: [value] for name in ("rewrite_acc", "rephrase_acc") if (value := values.get(name)) is not None}
    return direct | _kinds(values, "portability", PORTABILITY_KINDS)


def _fluency(values: Mapping[str, float | None]) -> dict[str, Any]:
    entropy = values.get("ngram_entropy")
    return {} if entropy is None else {"fluency": {"ngram_entropy": entropy}}


def _kinds(values: Mapping[str, float | None], metric: str, kinds: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    return {metric: _by_kind((kind, values.get(f"{metric}.{kind}_acc")) for kind in kinds)}


def _by_kind(numbers: Iterable[tuple[str, float | None]]) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for kind, number in numbers:
        if number is not None:
            groups.setdefault(f"{AXES.get(kind, kind)}_acc", []).append(number)
    return groups


def _meta(protocol: str, seed: int, model: str, revision: str) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "scorer": "teacher-forced",
        "comparable_group": f"{protocol}/teacher-forced",
        "model": model,
        "revision": revision,
        "seed": seed,
    }
