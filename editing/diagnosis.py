"""What a rank-one edit looks like in numbers, and when the reader should be warned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from editing.edit import Diagnostic, Edit
from editing.keys import Batch
from editing.moments import Moment
from editing.values import Start, Value

if TYPE_CHECKING:
    from editing.rome import Solution

LIKELY = 0.5
"""Below this probability of the new answer the edit is said not to have taken."""
DISTURBING = 0.25
"""Above this share of the residual norm an edit is said to disturb ordinary text."""
SLANTED = 0.01
"""Below this cosine of key and direction the change is inflated a hundred times."""


def diagnose(
    edit: Edit,
    weight: torch.Tensor,
    batch: Batch,
    start: Start,
    value: Value,
    moment: Moment,
    solution: Solution,
    p_after: float,
) -> Edit:
    """The edit with its diagnostics.

    Args:
        weight: [d_model, d_mlp], unedited.
        p_after: probability of the whole new answer after the bare prompt, in the edited model.
    """
    norm = float(weight.double().norm())
    groups = (
        _size(edit.deltas[0].norm, norm),
        _disturbance(start, moment, solution),
        _key_and_value(batch, start, value, solution),
        _limit(edit, value),
        _probabilities(edit, value, p_after),
        _moment(edit, moment),
    )
    return replace(edit, diagnostics=tuple(diagnostic for group in groups for diagnostic in group))


def _size(change: float, weight: float) -> list[Diagnostic]:
    share = change / weight if weight else float("inf")
    help_text = "Frobenius norm of the change over that of the weight; large where the layer's MLP writes little."
    return [Diagnostic("relative change", share, "|Δ| / |W|", help_text)]


def _disturbance(start: Start, moment: Moment, solution: Solution) -> list[Diagnostic]:
    """sqrt(E |delta k|^2) over the corpus's keys k: what other texts will notice; unknown with C = I."""
    if not moment.n_tokens:
        return []
    along = solution.cols[0] @ moment.matrix.double() @ solution.cols[0]
    share = float(solution.rows.norm() * along.clamp_min(0).sqrt()) / start.residual_norm
    warning = ""
    if share > DISTURBING:
        warning = (
            f"on ordinary text the edit changes what the MLP writes by {share:.2g} x the residual norm; other facts "
            "may suffer; lower norm_limit or choose another layer"
        )
    help_text = "Root mean square change of the MLP's output over the tokens of the corpus, over the residual norm."
    return [Diagnostic("disturbance", share, "x residual norm", help_text, warning)]


def _key_and_value(batch: Batch, start: Start, value: Value, solution: Solution) -> list[Diagnostic]:
    key_norm = float(solution.key.norm())
    cosine = solution.denominator / key_norm if key_norm else 0.0
    warning = ""
    if abs(cosine) < SLANTED:
        warning = (
            f"the key and the direction of the update are nearly orthogonal (cosine {cosine:.2g}), so the change is "
            "inflated; use more tokens for the second moment, a larger ridge, or another layer"
        )
    return [
        Diagnostic("denominator", solution.denominator, "u · k*", "The update is divided by this.", warning),
        Diagnostic("key norm", key_norm, "|k*|", "Input of the down projection at the fact token, mean over contexts."),
        Diagnostic("value norm", float(solution.value.norm()), "|v*|", "What the MLP is to write there."),
        Diagnostic("value norm before", start.value_norm, "|v|", "What it wrote there after the bare prompt."),
        Diagnostic("residual norm", start.residual_norm, "|h|", "The residual stream at that layer and token."),
        Diagnostic("contexts", float(len(batch.rows) - 1), "", "Texts over which key and value are averaged."),
        Diagnostic("value steps", float(len(value.losses)), "", "Steps the search for the value took."),
    ]


def _limit(edit: Edit, value: Value) -> list[Diagnostic]:
    change, config = float(value.delta.norm()), edit.config
    warning = ""
    if value.limit_reached:
        reference = "residual norm" if config.limit_reference == "residual" else "norm of the MLP's output"
        warning = (
            f"norm limit reached: the change of the value is held at {value.limit:.3g} ({config.norm_limit:g} x the "
            f"{reference}), where the new answer has probability {value.p_found:.2g}; raise norm_limit"
        )
        if config.limit_reference == "mlp_out":
            warning += " or set limit_reference to residual"
    return [
        Diagnostic("value change", change, "|δ|", "Norm of the change of the value."),
        Diagnostic(
            "norm limit used",
            change / value.limit,
            "of the limit",
            f"At 1 the change of the value was cut off at the limit, {value.limit:.3g}.",
            warning,
        ),
    ]


def _probabilities(edit: Edit, value: Value, p_after: float) -> list[Diagnostic]:
    warning = ""
    if p_after < LIKELY:
        target = edit.requests[0].target_new
        warning = (
            f"the edited model gives {target!r} a probability of only {p_after:.2g}; try another layer or more steps"
        )
    return [
        Diagnostic("p(new) before", value.p_before, "probability", "Of the whole new answer, unedited model."),
        Diagnostic("p(new) at v*", value.p_found, "probability", "With the value put in place by hand."),
        Diagnostic("p(new) after", p_after, "probability", "In the edited model.", warning),
    ]


def _moment(edit: Edit, moment: Moment) -> list[Diagnostic]:
    width, warning = len(moment.matrix), ""
    if 0 < moment.n_tokens < width:
        warning = (
            f"the second moment comes from {moment.n_tokens} tokens, fewer than its width of {width}; "
            "raise moment_tokens or give a longer corpus"
        )
    return [
        Diagnostic("second moment", float(moment.n_tokens), "tokens", f"C: {moment.source}.", warning),
        Diagnostic("condition number", moment.condition_number, "", "Largest over smallest eigenvalue of C."),
        Diagnostic("ridge", edit.config.ridge, "x mean eigenvalue", "Added to C before it is inverted."),
    ]
