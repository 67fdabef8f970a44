"""The kind `protocols`: one edit, measured under several named protocols, which share forward passes.  Settings:

    request      {"fact", "target_new", "probes", "generation_prompts"}, from `facts.records.request_record`
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    rests_on     as in `experiments.cells.edit`
    protocols    names of `metrics.protocols.PROTOCOLS`
    seed         of the sampled texts

The result maps each protocol to a record of `metrics.protocols.CaseScores`; `scores_of` reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.cells import edit as edit_cells
from experiments.kinds import Context, kind
from experiments.plan import Spec
from facts.records import as_lists, read_request

if TYPE_CHECKING:
    from metrics.protocols import CaseScores
    from models import LanguageModel

EDIT = ("request", "method", "layer", "settings", "rests_on")


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    from metrics.protocols import PROTOCOLS, get_protocol

    unknown = sorted(set(spec) - {*EDIT, "protocols", "seed"})
    if unknown:
        raise ValueError(f"protocols take {', '.join(EDIT)}, protocols, seed; there is no setting {unknown[0]!r}")
    names = list(spec.get("protocols", PROTOCOLS))
    for name in names:
        get_protocol(name)
    edit = edit_cells.complete({name: spec[name] for name in EDIT if name in spec})
    return {**{name: edit[name] for name in EDIT}, "protocols": names, "seed": spec.get("seed", 0)}


@kind(
    "protocols",
    version=2,  # 2: NLTK's words in entropies, and ROME's essence perplexity
    complete=complete,
    group=edit_cells.by_request,
    estimate_bytes=edit_cells.least_bytes,
)
def protocols(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Compute the edit, and measure it."""
    from editing import apply_edits
    from metrics.protocols import Material, base_readings, evaluate_under
    from metrics.types import Settings

    edit_cells.check_ground(spec)
    request, names = read_request(spec["request"]), spec["protocols"]
    material = Material(Settings(seed=spec["seed"]))
    # edits of one request run one after another, and the unedited model's answers are the same for all
    question = f"before {names} {spec['seed']}"
    before = context.memo(question, lambda: base_readings(model, [request], names, material=material))
    began = perf_counter()
    made = edit_cells.compute(model, request, spec, context)
    context.notes["edit_seconds"] = perf_counter() - began
    view = apply_edits(model, [made])
    measured = evaluate_under(model, view, request, names, material=material, before=before, watch=context.watch)
    return {
        "edit_digest": made.digest,
        "scores": {name: as_lists(scores.to_record()) for name, scores in measured.items()},
    }


def scores_of(result: Mapping[str, Any]) -> dict[str, CaseScores]:
    """A result's scores by protocol."""
    from metrics.protocols import CaseScores

    return {name: CaseScores.from_record(record) for name, record in result["scores"].items()}
