"""The kind `edit`: one request, one method with its settings, measured before and after.  Settings:

    request      {"fact", "target_new", "probes", "generation_prompts"}, from `facts.records.request_record`
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    seed         of the bootstrap of the scores
    distractors  unrelated sentences put before paraphrases; null for the usual ones, [] for none
    texts        documents of the bundled corpus that perplexity is measured on; 0 for none
    rests_on     the method's revision, and the sha256 of the corpus or trained editor that a setting names; filled in
                 when left out, so that the cell's key changes with them

The result has `scores` (a record each, with its protocol, n and interval), `diagnostics` and the edit's digest.
Seconds and peak memory differ from run to run, so they are notes and no part of the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from experiments.kinds import Context, check_settings, kind
from experiments.memory import FIXED
from experiments.plan import Spec, digest
from facts import EditRequest
from facts.records import as_lists, read_request, request_record
from facts.regular import check_regular

if TYPE_CHECKING:
    from editing import Edit
    from metrics import EditReport
    from models import LanguageModel

DEFAULTS: dict[str, Any] = {"layer": None, "settings": {}, "seed": 0, "distractors": None, "texts": 0, "rests_on": None}
_BATCH = 64
"""Largest batch of an evaluation, in rows."""
_PASSES = 2
"""Prompts an evaluation reads for each prompt of the request: paraphrases are also read after another sentence."""
_MOMENTS = 6
"""Float64 matrices of the second moment's size that a method using it holds: the moment, its factor, copies for
solving, and AlphaEdit's eigenvectors and projection."""


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("an edit", spec, ("request", "method", *DEFAULTS), ("request", "method"))
    whole = DEFAULTS | dict(spec) | {"request": request_record(read_request(spec["request"]))}
    config = asdict(config_of(whole))
    layer = config.pop("layer", None)
    whole |= {"layer": layer, "settings": config}
    return whole | {"rests_on": rests_on(whole)}


def by_request(spec: Spec) -> str:
    """Group key: one worker computes the edits of one request one after another."""
    return digest(spec["request"])


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """Bytes of the edited matrix with its gradient and two optimiser moments, of the second moment of its keys where
    the method needs it, and of one batch of the evaluation."""
    from editing import get_method
    from models import tokens_together
    from tracing.engine.memory import Pass

    prompts = _prompts(read_request(spec["request"]))
    longest = max(len(tokens_together(model, *pair)) for pair in prompts)
    matrices = 4 * model.d_model * model.d_mlp * model.dtype.itemsize
    if "statistics" in get_method(spec["method"]).needs:
        matrices += _MOMENTS * 8 * model.d_mlp**2
    rows = min(_BATCH, _PASSES * len(prompts))
    return FIXED + matrices + Pass(rows, longest, longest, longest).bytes(model)


@kind("edit", version=1, complete=complete, group=by_request, estimate_bytes=least_bytes)
def edit(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Compute the edit, and measure it on a view of the model."""
    from editing import apply_edits
    from experiments.guard import ordinary_texts
    from metrics import evaluate
    from metrics.evaluation import DISTRACTORS

    check_ground(spec)
    request = read_request(spec["request"])
    began = perf_counter()
    made = compute(model, request, spec, context)
    context.notes["edit_seconds"] = perf_counter() - began
    texts = context.keep(f"texts {spec['texts']}", lambda: ordinary_texts(spec["texts"]))
    report = evaluate(
        model,
        apply_edits(model, [made]),
        request,
        guard_texts=texts if spec["texts"] else (),
        distractors=DISTRACTORS if spec["distractors"] is None else spec["distractors"],
        seed=spec["seed"],
        watch=context.watch,
    )
    timed = ("efficiency.evaluate_seconds", "efficiency.peak_memory")
    context.notes |= {name.partition(".")[2]: report.score(name).value for name in timed}
    return {
        "method": made.method,
        "layer": spec["layer"],
        "edit_digest": made.digest,
        "protocol": report.protocol,
        "parameters_changed": made.parameters_changed,
        "warnings": list(made.warnings),
        "diagnostics": {diagnostic.name: diagnostic.value for diagnostic in made.diagnostics},
        "scores": _scores(report),
    }


def _scores(report: EditReport) -> list[dict[str, Any]]:
    """One record per score; efficiency scores are left out, since times differ from run to run."""
    kept = ("name", "metric", "label", "before", "after", "change", "n", "ci_low", "ci_high", "unit", "protocol")
    frame = report.summary_frame()
    records = frame[frame["metric"] != "efficiency"][list(kept)].to_dict("records")
    return [{str(name): as_lists(value) for name, value in record.items()} for record in records]


def config_of(spec: Mapping[str, Any]) -> Any:
    """The method's settings.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    from editing import get_method
    from editing.configs import make_config

    layer = {} if spec["layer"] is None else {"layer": spec["layer"]}
    return make_config(get_method(spec["method"]).config_type, {**spec["settings"], **layer})


def compute(model: LanguageModel, request: EditRequest, spec: Spec, context: Context) -> Edit:
    """Compute a cell's edit.

    Raises:
        ValueError: if the request does not fit the model.
    """
    (edit,) = compute_all(model, [request], spec, context)
    return edit


def compute_all(model: LanguageModel, requests: Sequence[EditRequest], spec: Spec, context: Context) -> list[Edit]:
    """Rewrite several facts: in one edit where the method takes batches, else in one edit on top of the other.

    Raises:
        ValueError: if a request does not fit the model.
    """
    from editing import apply_edits, get_method

    method, config = get_method(spec["method"]), config_of(spec)
    edits: list[Edit] = []
    for part in [requests] if method.batch else [[request] for request in requests]:
        view = apply_edits(model, edits) if edits else model
        edits.append(method.compute(view, part, config, active=edits, watch=context.watch))
    return edits


def check_ground(spec: Spec) -> None:
    """Check that the method, corpus and trained editor are those of the time when the run was planned.

    Raises:
        ValueError: if one of them changed.
    """
    now, then = rests_on(spec), spec.get("rests_on") or {}  # cells planned before this setting existed have none
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    if changed:
        raise ValueError(f"the {changed[0]} of {spec['method']} has changed since the run was planned; plan it anew")


def rests_on(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The method's revision, and the hashes of the files that the cell's settings name.

    Raises:
        OSError: if there is no such file.
    """
    from editing import revision_of

    grounds: dict[str, Any] = {"revision": revision_of(spec["method"])}
    settings = spec["settings"]
    if settings.get("corpus"):
        grounds["corpus"] = _sha256(Path(settings["corpus"]))
    if spec.get("snippets"):
        grounds["snippets"] = _sha256(Path(spec["snippets"]))
    if "artefact" in settings:
        from editing.train.artefact import folder_of

        grounds["artefact"] = _sha256(folder_of(settings["artefact"], spec["method"]) / "manifest.json")
    return grounds


def _sha256(path: Path) -> str:
    check_regular(path, "give the path of a text file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _prompts(request: EditRequest) -> list[tuple[str, str]]:
    return [(request.fact.prompt, request.target_new), *((p.prompt, p.answer) for p in request.probes)]
