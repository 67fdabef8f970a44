"""Edit every layer, to see where an edit works beside where a trace points.

Hase et al. 2023 (arXiv:2301.04213) found next to no correlation between the two over many facts.  For one fact this
shows both profiles over the layers, and their correlation over so few points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app import workflow
from app.workflow import Located
from editing import Edit
from editing.parts.keys import fact_position
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from metrics.definitions import PROMPTED
from models import LanguageModel

NEW_ANSWER = "p(new answer)"
"""The smooth profile: with few prompts, a share of right answers takes few values."""


@dataclass(frozen=True, eq=False)
class EveryLayer:
    """The same edit at each layer."""

    method: str
    layers: tuple[int, ...]
    """Layers at which it was computed."""
    effect: tuple[float, ...]
    """Indirect effect of each layer at the edited token."""
    scores: dict[str, tuple[float | None, ...]]
    """`NEW_ANSWER` and each metric's headline, by layer; None where it was not measured."""
    failures: dict[int, str]
    """Layers where no edit could be computed, and why."""

    def correlation(self, name: str) -> tuple[float, int]:
        """(Pearson's r of the trace's effect with a score, layers it is over); NaN where one of them does not vary."""
        pairs = [(x, y) for x, y in zip(self.effect, self.scores[name], strict=True) if y is not None]
        x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        if len(pairs) < 3 or np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
            return math.nan, len(pairs)
        return float(np.corrcoef(x, y)[0, 1]), len(pairs)


def edit_every_layer(
    model: LanguageModel,
    request: EditRequest,
    located: Located,
    method: str,
    config: dict[str, Any],
    *,
    active: Sequence[Edit] = (),
    watch: Watch = UNWATCHED,
) -> EveryLayer:
    """Compute and score the same edit at every layer whose MLP is not silent; nothing stays applied.

    Args:
        config: fields of the method's config; the layer is set here.
        watch: its steps are per cents of a layer.

    Raises:
        ValueError: if the method or a setting is unusable at every layer; the sentence is the first layer's.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    position = fact_position(model, request.fact, config.get("fact_token", "subject_last"))
    layers = [layer for layer in range(model.n_layers) if layer not in located.silent.get(position, ())]
    effects = located.main.indirect_effect[position]
    rows: dict[int, dict[str, float | None]] = {}
    failures: dict[int, str] = {}
    for index, layer in enumerate(reversed(layers)):  # the deepest first: its second moment brings those of all
        watch.check()
        step = watch.part(100 * index, 100 * (index + 1), 100 * len(layers))
        try:
            rows[layer] = _one(model, request, method, config | {"layer": layer}, active, step)
        except ValueError as error:
            failures[layer] = str(error)
    if not rows:
        first = min(failures, default=0)
        raise ValueError(failures.get(first, "every layer's MLP is silent at the subject; choose another"))
    done = tuple(sorted(rows))
    scores = {name: tuple(rows[layer][name] for layer in done) for name in (NEW_ANSWER, *PROMPTED)}
    effect = tuple(float(effects[layer]) for layer in done)
    return EveryLayer(method, done, effect, scores, dict(sorted(failures.items())))


def _one(
    model: LanguageModel,
    request: EditRequest,
    method: str,
    config: dict[str, Any],
    active: Sequence[Edit],
    watch: Watch,
) -> dict[str, float | None]:
    edit = workflow.edit(model, request, method, config, active=active, watch=watch)
    edits = [*active, edit]
    report = workflow.evaluate(
        model, edit, request, active=edits, guard_texts=(), watch=Watch(cancelled=watch.cancelled)
    )
    edit_row = next(row for row in report.rows if row.kind == "edit")
    scores = {name: report.headline(name).value for name in PROMPTED}
    return {NEW_ANSWER: edit_row.after.p_answer if edit_row.after else None} | scores
