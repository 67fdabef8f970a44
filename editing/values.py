"""The value v*: what the MLP should write at the subject so that the model says the new answer.

Meng et al. 2022, section 3.1, equation 4 (arXiv:2202.05262).  A vector delta is added to the MLP's output at the fact
token of every context, and found by Adam on

    L(delta) = 1/N sum_j -log P[target | x_j + p]  +  kl_factor * KL(P[. | p'] || P_base[. | p'])  +  decay,

with p' = "{subject} is a".  Where the published code and the paper differ, `compat` chooses (see `Compat`).

The paper holds |delta| below 4 x the norm of the MLP's output.  On models whose MLPs write little compared with the
residual stream that bound binds long before the target is likely, so here the bound is by default a multiple of the
residual's norm at that layer and token; whichever is chosen, a bound that was reached is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from editing.edit import Cancelled, EditCancelled, LossStep, Progress
from editing.keys import Batch
from models import LanguageModel, Site, run

Compat = Literal["r-rome", "rome-code"]
"""r-rome: learning rate relative to the residual, KL at the last token of p', decay |delta|^2 relative to the reference
norm, one key throughout (arXiv:2403.07175).  rome-code, as in the public code: an absolute learning rate, KL at the
subject's token of p', decay |delta| / |v|^2, two keys."""
LimitReference = Literal["residual", "mlp_out"]


@dataclass(frozen=True)
class ValueSettings:
    """How v* is searched; see `editing.rome.RomeConfig` for the meaning and the defaults."""

    steps: int
    learning_rate: float
    kl_factor: float
    weight_decay: float
    norm_limit: float
    limit_reference: LimitReference
    stop_loss: float
    compat: Compat


@dataclass(frozen=True, eq=False)
class Start:
    """The unedited model on the batch: everything the search and the update read from it."""

    keys: torch.Tensor
    """[batch, d_mlp], float32, input of the down projection at each row's fact token."""
    values: torch.Tensor
    """[batch, d_model], float32, what the MLP writes there."""
    residual_norm: float
    """Norm of the block's output at the fact token of the bare prompt."""
    logits: torch.Tensor
    """[batch, pos, d_vocab]"""

    @property
    def value_norm(self) -> float:
        """Norm of what the MLP writes at the fact token of the bare prompt."""
        return float(self.values[0].norm())


@dataclass(frozen=True, eq=False)
class Value:
    """What the search found."""

    delta: torch.Tensor
    """[d_model], float32; v* is the unedited value plus this."""
    losses: tuple[LossStep, ...]
    limit: float
    """Largest norm delta was allowed."""
    limit_reached: bool
    p_before: float
    """Probability of the whole target after the bare prompt."""
    p_found: float
    """The same with delta added."""


def read_start(model: LanguageModel, layer: int, batch: Batch) -> Start:
    """One forward of the unedited model."""
    sites: list[tuple[Site, int]] = [("mlp_key", layer), ("mlp_out", layer), ("resid_post", layer)]
    result = run(model, batch.ids, captures=sites)
    keys, values, residuals = (batch.at_lookup(result.captured[site, at]).float() for site, at in sites)
    return Start(keys, values, float(residuals[0].norm()), result.logits)


def target_nll(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean negative log probability of the target's tokens for each row with a target: [batch - 1], in nats."""
    log_probabilities = logits.log_softmax(-1)
    rows = []
    for index, row in enumerate(batch.rows[:-1]):
        positions = torch.arange(row.n_prompt - 1, len(row.ids) - 1)
        answer = torch.tensor(row.ids[row.n_prompt :])
        rows.append(-log_probabilities[index, positions, answer].mean())
    return torch.stack(rows)


def optimise_value(
    model: LanguageModel,
    layer: int,
    batch: Batch,
    start: Start,
    settings: ValueSettings,
    *,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Value:
    """Search delta.  The last step is measured but not taken, and the search stops early at `stop_loss`.

    Raises:
        ValueError: if the loss stops being a number.
        EditCancelled: when `cancelled` said so.
    """
    reference = start.residual_norm if settings.limit_reference == "residual" else start.value_norm
    limit = settings.norm_limit * reference
    essence = _essence_position(batch, settings.compat)
    base = start.logits[-1, essence].log_softmax(-1)
    delta = torch.zeros(model.d_model, device=model.device, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate * _step_unit(start, settings.compat))
    losses: list[LossStep] = []
    nll = torch.zeros(0)
    with torch.enable_grad():
        for step in range(settings.steps):
            if cancelled is not None and cancelled():
                raise EditCancelled
            logits = _logits_with(model, layer, batch, delta)
            nll = target_nll(logits, batch)
            new = logits[-1, essence].log_softmax(-1)
            kl = settings.kl_factor * (new.exp() * (new - base)).sum()
            decay = settings.weight_decay * _decay(delta, start, reference, settings.compat)
            losses.append(LossStep(float(nll.mean().detach()), float(kl.detach()), float(decay.detach())))
            if not math.isfinite(losses[-1].total):
                raise ValueError(f"the search for the new value left the numbers at step {step}; lower learning_rate")
            if progress is not None:
                progress(step + 1, settings.steps)
            if losses[-1].total < settings.stop_loss or step == settings.steps - 1:
                break
            optimiser.zero_grad()
            (nll.mean() + kl + decay).backward()
            optimiser.step()
            _shorten(delta, limit)
    answer_tokens = len(batch.rows[0].ids) - batch.rows[0].n_prompt
    found = delta.detach()
    return Value(
        delta=found,
        losses=tuple(losses),
        limit=limit,
        limit_reached=bool(found.norm() >= limit * (1 - 1e-4)),
        p_before=math.exp(-answer_tokens * float(target_nll(start.logits, batch)[0])),
        p_found=math.exp(-answer_tokens * float(nll[0].detach())),
    )


def _step_unit(start: Start, compat: Compat) -> float:
    """Adam moves every coordinate by about its learning rate, whatever the gradient: so the rate is taken in units of
    the residual's root mean square, or the same number of steps would reach far in one model and nowhere in another."""
    return 1.0 if compat == "rome-code" else start.residual_norm / start.values.shape[1] ** 0.5


def _essence_position(batch: Batch, compat: Compat) -> int:
    """Where the KL is read: at the end of "{subject} is a"; the public code reads it at the subject instead."""
    row = batch.rows[-1]
    return row.lookup if compat == "rome-code" else len(row.ids) - 1


def _decay(delta: torch.Tensor, start: Start, reference: float, compat: Compat) -> torch.Tensor:
    if compat == "rome-code":  # the public code squares the denominator alone
        return delta.norm() / start.values[0].norm() ** 2
    return delta.square().sum() / reference**2


def _logits_with(model: LanguageModel, layer: int, batch: Batch, delta: torch.Tensor) -> torch.Tensor:
    """[batch, pos, d_vocab] with delta added to what the MLP writes at every row's fact token."""
    at = torch.zeros(*batch.ids.shape, 1, device=model.device)
    at[torch.arange(len(batch.rows)), batch.lookup] = 1.0

    def add(written: torch.Tensor) -> torch.Tensor:
        return written + (at * delta).to(written.dtype)

    return run(model, batch.ids, patches={("mlp_out", layer): add}, grad=True).logits


def _shorten(delta: torch.Tensor, limit: float) -> None:
    """Back onto the ball of radius `limit`."""
    with torch.no_grad():
        norm = float(delta.norm())
        if norm > limit:
            delta.mul_(limit / norm)
