"""The kind `sequence`: edits made one after the other on one model, measured on the way.  Settings:

    requests     a list of {"fact", "target_new", "probes", ...}, in the order in which they are made
    method       a name of `editing.METHODS`
    layer        for methods that have one; null for the method's default
    settings     the method's other settings by name
    rests_on     as in `experiments.cells.edit`
    every        edits between two points of the curve
    texts        documents of the bundled corpus on which perplexity, the sign of collapse, is measured

The result has the fields of every `metrics.sequence.Point` as counts, the success of each edit when it was made, and
why edits could not be computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.cells import edit as edit_cells
from experiments.kinds import Context, check_settings, kind
from experiments.plan import Spec, digest
from facts.records import read_request

if TYPE_CHECKING:
    from metrics.sequence import Held
    from models import LanguageModel

DEFAULTS: dict[str, Any] = {"layer": None, "settings": {}, "every": 5, "texts": 20, "rests_on": None}
METRICS = ("reliability", "generalization", "locality")


def complete(spec: Spec) -> Spec:
    """The settings, with the method's own defaults filled in.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("a sequence", spec, ("requests", "method", *DEFAULTS), ("requests",))
    whole = DEFAULTS | dict(spec)
    if whole["every"] < 1 or whole["texts"] < 1:
        raise ValueError(f"every is {whole['every']} and texts {whole['texts']}; expected at least 1 of each")
    first = {name: whole[name] for name in ("method", "layer", "settings")}
    checked = edit_cells.complete({"request": whole["requests"][0], **first})
    return whole | {name: checked[name] for name in ("layer", "settings", "rests_on")}


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """Bytes of its largest edit."""
    return max(edit_cells.least_bytes(model, {**spec, "request": request}) for request in spec["requests"])


@kind("sequence", version=1, complete=complete, group=digest, estimate_bytes=least_bytes)
def sequence(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Make the edits in turn, each on top of the ones before."""
    from experiments.guard import ordinary_texts
    from experiments.sequences import run_sequence

    edit_cells.check_ground(spec)
    report = run_sequence(
        model,
        [read_request(values) for values in spec["requests"]],
        spec["method"],
        edit_cells.config_of(spec),
        every=spec["every"],
        guard_texts=ordinary_texts(spec["texts"]),
        watch=context.watch,
    )
    return {
        "points": [
            {"n_edits": point.n_edits, "perplexity": point.perplexity, **_counts(point.retained)}
            for point in report.points
        ],
        "immediate": [None if entry is None else _counts(entry) for entry in report.immediate],
        "failed": [list(entry) for entry in report.failed],
    }


def _counts(stand: Held) -> dict[str, list[int]]:
    """[right, n] by metric."""
    return {name: [getattr(stand, name).right, getattr(stand, name).n] for name in METRICS}
