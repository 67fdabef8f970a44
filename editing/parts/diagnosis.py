"""The numbers that describe an edit, and when to warn about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from editing.edit import Diagnostic
from editing.ops import Delta
from editing.parts.keys import Batch
from editing.parts.moments import Moment
from editing.parts.rank_one import Solution
from editing.parts.reach import OWN_OUTPUT, Unit
from editing.parts.values import Start, Value
from facts import EditRequest
from models import LanguageModel

LIKELY = 0.5
"""Warn below this probability of the new answer."""
DISTURBING = 0.25
"""Warn of disturbed ordinary text above this share of the residual norm."""
SLANTED = 0.01
"""Warn below this cosine of key and direction, at which the change is 100 times larger than the residual needs."""
CLOSED = 0.5
"""Warn if more than this share of the change wanted behind the last layer is missing."""


def size_diagnostic(model: LanguageModel, changes: Sequence[Delta]) -> Diagnostic:
    """|delta| / |W| of the weight with the largest such ratio."""
    sizes = [op.norm / norm if (norm := float(model.weight(op.name).double().norm())) else torch.inf for op in changes]
    help_text = "Frobenius norm of the change over that of the weight; large where the layer's MLP writes little."
    if len(sizes) > 1:
        help_text += " The largest of the changed weights."
    return Diagnostic("relative change", max(sizes), "|Δ| / |W|", help_text)


def remedy_for(config: Any, n_layers: int) -> str:
    """What to try where a new answer stays unlikely."""
    if getattr(config, "fact_token", "last") != "last" and getattr(config, "layer", None) == n_layers - 1 > 0:
        return "try an earlier layer, since nothing carries what the last one writes at the subject to the answer"
    if hasattr(config, "layer"):
        return "try another layer or more steps" if hasattr(config, "steps") else "try another layer"
    return "try more steps" if hasattr(config, "steps") else "try another method"


def answer_diagnostics(
    requests: Sequence[EditRequest],
    before: Sequence[float],
    after: Sequence[float],
    by_hand: Sequence[float] = (),
    *,
    remedy: str = "",
) -> list[Diagnostic]:
    """Probabilities of the requests' new answers, means where there are several.

    Args:
        before, after: probability of each request's answer in the unedited and the edited model.
        by_hand: the same with the searched value set by hand, for methods that search one.
        remedy: of `remedy_for`.
    """
    several = len(before) > 1
    missed = [request.target_new for request, p in zip(requests, after, strict=True) if p < LIKELY]
    warning = ""
    if missed and several:
        warning = f"{len(missed)} of {len(after)} new answers have a probability below {LIKELY:g} in the edited model"
    elif missed:
        warning = f"the edited model gives {missed[0]!r} a probability of only {after[0]:.2g}"
    warning += f"; {remedy}" if warning and remedy else ""
    whole = "Of the whole new answer" + (", mean over the requests" if several else "")
    numbers = [Diagnostic("p(new) before", _mean(before), "probability", f"{whole}, unedited model.")]
    if by_hand:
        numbers.append(
            Diagnostic("p(new) at v*", _mean(by_hand), "probability", "With the value put in place by hand.")
        )
    numbers.append(Diagnostic("p(new) after", _mean(after), "probability", f"{whole}, in the edited model.", warning))
    if several:
        numbers.append(Diagnostic("requests", float(len(before)), "", "Facts rewritten together."))
    return numbers


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Inputs and results of a change spread over layers (`editing.methods.spread`)."""

    batches: tuple[Batch, ...]
    starts: tuple[Start, ...]
    values: tuple[Value, ...]
    moments: Mapping[str, Moment]
    """Of each changed weight, by its name."""
    gaps: tuple[float, ...]
    """Mean norm of z minus what the last block writes, before each layer and at the end."""


def diagnose_many(model: LanguageModel, changes: Sequence[Delta], outcome: Outcome) -> tuple[Diagnostic, ...]:
    """Size of a change spread over layers, its disturbance of ordinary text and the gap that is left."""
    unit = _mean_unit(outcome)
    shares = [disturbance(op, outcome.moments[op.name], unit.length) for op in changes]
    return (
        size_diagnostic(model, changes),
        *(_disturbing(max(shares), unit) if all(moment.n_tokens for moment in outcome.moments.values()) else []),
        *_gap(outcome),
    )


def _mean_unit(outcome: Outcome) -> Unit:
    return replace(outcome.starts[0].unit, length=_mean([start.unit.length for start in outcome.starts]))


def _gap(outcome: Outcome) -> list[Diagnostic]:
    left = outcome.gaps[-1] / outcome.gaps[0] if outcome.gaps[0] else 0.0
    warning = ""
    if left > CLOSED:
        warning = (
            f"{left:.0%} of the change wanted behind the last layer is missing; protect the old keys less, change more "
            "layers, or choose others"
        )
    help_text = "Distance of what the last block writes from its target, after the edit divided by before."
    return [Diagnostic("gap left", left, "of the change", help_text, warning)]


def _reference(config: Any, unit: Unit) -> str:
    """Name of the norm that the norm limit is relative to."""
    return unit.name if getattr(config, "limit_reference", "residual") == "residual" else OWN_OUTPUT


def limit_diagnostics(config: Any, outcome: Outcome) -> list[Diagnostic]:
    """How far the value searches of many requests went."""
    values, reference = outcome.values, _reference(config, _mean_unit(outcome))
    reached = sum(value.limit_reached for value in values)
    used = _mean([float(value.delta.norm()) / value.limit for value in values])
    warning = ""
    if reached:
        warning = (
            f"the norm limit was reached in {reached} of {len(values)} searches ({config.norm_limit:g} x the "
            f"{reference}); raise norm_limit if their answers are unlikely"
        )
    help_text = "Norm of the change of the value over the longest allowed, mean over the requests."
    steps = _mean([float(len(value.losses)) for value in values])
    return [
        Diagnostic("norm limit used", used, "of the limit", help_text, warning),
        Diagnostic("value steps", steps, "", "Steps the search for the value took, mean over the requests."),
    ]


def disturbance(op: Delta, moment: Moment, unit: float) -> float:
    """sqrt(E |delta k|^2) over the corpus's keys k, divided by `unit`: the effect on other texts."""
    change = op.matrix().double().cpu()
    along = ((change @ moment.matrix.double()) * change).sum().clamp_min(0)
    return float(along.sqrt()) / unit


def _disturbing(share: float, unit: Unit, limited: bool = False) -> list[Diagnostic]:
    warning = ""
    if share > DISTURBING:
        way = "choose another layer" if limited else "lower norm_limit or choose another layer"
        warning = (
            f"on ordinary text the edit changes what the MLP writes by {share:.2g} x the {unit.name}; other facts "
            f"may suffer; {way}"
        )
    help_text = f"Root mean square change of the MLP's output over the tokens of the corpus, over the {unit.name}."
    return [Diagnostic("disturbance", share, f"x {unit.name}", help_text, warning)]


def diagnose(
    model: LanguageModel,
    config: Any,
    op: Delta,
    batch: Batch,
    start: Start,
    value: Value,
    moment: Moment,
    solution: Solution,
) -> tuple[Diagnostic, ...]:
    """Diagnostics of one request's change of one layer."""
    share = disturbance(op, moment, start.unit.length) if moment.n_tokens else 0.0  # unknown with C = I
    return (
        size_diagnostic(model, [op]),
        *(_disturbing(share, start.unit, value.limit_reached) if moment.n_tokens else []),
        *_key_and_value(batch, start, value, solution),
        *_limit(config, value, _reference(config, start.unit), share > DISTURBING),
    )


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
        Diagnostic("key norm", key_norm, "|k*|", "Norm of the key: input of the down projection at the fact token."),
        Diagnostic("value norm", float(solution.value.norm()), "|v*|", "What the MLP should write there."),
        Diagnostic("value norm before", start.value_norm, "|v|", "What it writes there in the unedited model."),
        Diagnostic("residual norm", start.residual_norm, "|h|", "The residual stream at that layer and token."),
        Diagnostic("contexts", float(len(batch.rows) - 1), "", "Texts over which key and value are averaged."),
        Diagnostic("value steps", float(len(value.losses)), "", "Steps the search for the value took."),
    ]


def _limit(config: Any, value: Value, reference: str, disturbing: bool) -> list[Diagnostic]:
    change = float(value.delta.norm())
    warning = ""
    if value.limit_reached:
        way = "choose another layer" if disturbing else "raise norm_limit"  # more would disturb more
        warning = (
            f"the norm limit was reached: the change of the value is cut to {value.limit:.3g} ({config.norm_limit:g} x "
            f"the {reference}), where the new answer has probability {value.p_found:.2g}; {way}"
        )
        if config.limit_reference == "mlp_out" and not disturbing:
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


def moment_diagnostics(config: Any, moment: Moment) -> tuple[Diagnostic, ...]:
    """Source and condition of the second moment."""
    width, warning = len(moment.matrix), ""
    if 0 < moment.n_tokens < width:
        warning = (
            f"the second moment comes from {moment.n_tokens} tokens, fewer than its width of {width}; "
            "raise moment_tokens or give a longer corpus"
        )
    return (
        Diagnostic("second moment", float(moment.n_tokens), "tokens", f"C: {moment.source}.", warning),
        Diagnostic("condition number", moment.condition_number, "", "Largest over smallest eigenvalue of C."),
        Diagnostic("ridge", config.ridge, "x mean eigenvalue", "Added to C before it is inverted."),
    )
