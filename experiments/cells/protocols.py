"""The kind `protocols`: the edits of one case, measured under several named protocols, which share forward passes.

    request      {"fact", "target_new", "probes", "generation_prompts"}, from `facts.records.request_record`
    case         in its place: a row of a dataset, from `facts.importers.record_of`; all its edits are made, and its
                 questions asked
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    rests_on     as in `experiments.cells.edit`
    protocols    names of `metrics.protocols.PROTOCOLS`
    seed         of the sampled texts
    snippets     ROME's reference texts (`facts.importers.read_snippets`); left out: RS and essence are not measured

The result maps each protocol to a record of `metrics.protocols.CaseScores`; `scores_of` reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.cells import edit as edit_cells
from experiments.kinds import Context, kind
from experiments.plan import Spec, digest
from facts import Case
from facts.importers import case_of, read_snippets, record_of
from facts.records import as_lists, read_request, request_record

if TYPE_CHECKING:
    from metrics.fluency import References
    from metrics.protocols import CaseScores
    from models import LanguageModel

EDIT = ("method", "layer", "settings", "rests_on")
SETTINGS = ("request", "case", *EDIT, "protocols", "seed", "snippets")


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    from metrics.protocols import PROTOCOLS, get_protocol

    unknown = sorted(set(spec) - set(SETTINGS))
    if unknown:
        raise ValueError(f"protocols take {', '.join(SETTINGS)}; there is no setting {unknown[0]!r}")
    if ("request" in spec) == ("case" in spec):
        raise ValueError("protocols take either a request or a case; give one of them")
    names = list(spec.get("protocols", PROTOCOLS))
    for name in names:
        get_protocol(name)
    case = case_in(spec)
    edit = edit_cells.complete(
        {"request": request_record(case.requests[0]), **{name: spec[name] for name in EDIT if name in spec}}
    )
    subject = {"case": record_of(case)} if "case" in spec else {"request": edit["request"]}
    shared = {"protocols": names, "seed": spec.get("seed", 0)}
    whole = subject | {name: edit[name] for name in EDIT} | shared
    if spec.get("snippets"):
        whole["snippets"] = spec["snippets"]
        whole["rests_on"] = edit_cells.rests_on(whole)
    return whole


def case_in(spec: Mapping[str, Any]) -> Case:
    """The case that a cell is about.

    Raises:
        ValueError: if it is not written as one, or has nothing to edit.
    """
    from metrics.protocols.case import as_case

    return as_case(case_of(spec["case"]) if "case" in spec else read_request(spec["request"]))


def subject_of(spec: Mapping[str, Any]) -> str:
    """Text that is the same for all cells about one case."""
    return digest(spec["case"] if "case" in spec else spec["request"])


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """As much as the largest of its edits, with the prompts of the whole case."""
    case = case_in(spec)
    whole = [replace(request, probes=(*request.probes, *case.probes)) for request in case.requests]
    return max(edit_cells.least_bytes(model, {**spec, "request": request_record(request)}) for request in whole)


@kind(
    "protocols",
    version=2,  # 2: NLTK's words in entropies, and ROME's essence perplexity
    complete=complete,
    group=subject_of,
    estimate_bytes=least_bytes,
)
def protocols(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Compute the edits, and measure them together."""
    from editing import apply_edits
    from metrics.protocols import Material, base_readings, evaluate_under
    from metrics.types import Settings

    edit_cells.check_ground(spec)
    case, names, snippets = case_in(spec), spec["protocols"], spec.get("snippets")
    references = context.keep(f"snippets {snippets}", lambda: _references(snippets)) if snippets else None
    material = Material(Settings(seed=spec["seed"]), references)
    # edits of one case run one after another, and the unedited model's answers are the same for all
    question = f"before {names} {spec['seed']} {snippets}"
    before = context.memo(question, lambda: base_readings(model, [case], names, material=material))
    began = perf_counter()
    edits = edit_cells.compute_all(model, case.requests, spec, context)
    context.notes["edit_seconds"] = perf_counter() - began
    view = apply_edits(model, edits)
    measured = evaluate_under(model, view, case, names, material=material, before=before, watch=context.watch)
    return {
        "edit_digest": edits[0].digest if len(edits) == 1 else digest([edit.digest for edit in edits]),
        "scores": {name: as_lists(scores.to_record()) for name, scores in measured.items()},
    }


def _references(path: str) -> References:
    from metrics.fluency import References

    return References.from_pairs(read_snippets(path))


def scores_of(result: Mapping[str, Any]) -> dict[str, CaseScores]:
    """A result's scores by protocol."""
    from metrics.protocols import CaseScores

    return {name: CaseScores.from_record(record) for name, record in result["scores"].items()}
