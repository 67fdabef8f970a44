"""Train a few tensors until a model gives the new answers: what the fine-tuning methods share.

Training always uses a private view of the model.  No other thread uses its module tree, so its weights may require
gradients and its modules may carry hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from editing.edit import LossStep
from editing.parts.answers import Answered, AnswerRow, Targets, padded, portions
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.calls import calling
from models.forwards.hooks import Below
from models.forwards.partial import logits_at

RATE = 0.04
"""Learning rate of fine-tuning."""


class PromptEndTargets(Targets):
    """Every token of the answer is a target at the prompt's last position (a bag of words), as in the public code of
    fine-tuning (kmeng01/rome, EasyEdit's "prompt_last").  For answers of one token this is the usual loss."""

    @staticmethod
    def place(row: Answered, position: int) -> int:
        """The position whose logits predict the token at `position`."""
        return row.n_prompt - 1


@dataclass(frozen=True, kw_only=True)
class DescentSettings:
    """Settings of Adam.

    Adam moves every entry by about its learning rate, whatever the gradient.  The public code of ROME's fine-tuning
    baselines takes 5e-4 and 25 steps: on the bundled model one such step changes what the layer writes by 4 % of the
    residual, on Gemma 3 by all of what its MLP writes.  Here the rate is that share (`editing.parts.reach`), and
    `stop_loss` ends the training.
    """

    steps: int = field(default=100, metadata={"help": "Most steps of Adam.", "min": 1, "max": 1000})
    learning_rate: float = field(default=RATE, metadata={"help": "Of Adam.", "min": 1e-7, "max": 1.0})
    rate_unit: Literal["reach", "absolute"] = field(
        default="reach",
        metadata={
            "help": "What the learning rate is: the share by which a step changes what the trained weights write, of "
            "what it can be changed by there; or Adam's own (the papers).",
            "choices": ("reach", "absolute"),
            "earlier": "absolute",
        },
    )
    stop_loss: float = field(default=0.01, metadata={"help": "Training stops below this loss.", "min": 0.0})


def descend(
    model: LanguageModel,
    rows: Sequence[AnswerRow],
    parameters: Sequence[torch.Tensor],
    settings: DescentSettings,
    *,
    units: Sequence[float] = (),
    first: int = 0,
    targets: type[Targets] = Targets,
    after_step: Callable[[Sequence[torch.Tensor]], None] | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[LossStep, ...]:
    """Train `parameters`, which must be parts of `model`, on the mean loss over the rows' answers.

    The last step is measured but not taken, and training stops below `stop_loss`.

    Args:
        units: of the learning rate, for each parameter; absolute by default.
        first: the first block with a trained tensor; those below run once.
        targets: which positions predict the answers' tokens.
        after_step: called after every step with the trained tensors, to project them back into what is allowed.

    Returns:
        The loss before every step.

    Raises:
        ValueError: if no gradient reaches the parameters, or the loss stops being a number.
        Cancelled: if `watch` says to stop.
    """
    # in float32, because bfloat16 cannot resolve the steps and Adam's epsilon is 0 in float16
    trained = [parameter.detach().float() for parameter in parameters]
    rates = [settings.learning_rate * unit for unit in units] or [settings.learning_rate] * len(trained)
    optimiser = torch.optim.Adam([{"params": [own], "lr": rate} for own, rate in zip(trained, rates, strict=True)])
    losses: list[LossStep] = []
    parts = [
        _Part(model, [rows[index] for index in portion], targets, first)
        for portion in portions([(1, len(row.ids)) for row in rows])
    ]
    for step in range(settings.steps):
        for parameter in parameters:
            parameter.grad = None
        losses.append(LossStep(sum(part.accumulate(len(rows)) for part in parts), 0.0, 0.0))
        if not math.isfinite(losses[-1].total):
            raise ValueError(f"the training loss became NaN or infinite at step {step}; lower learning_rate")
        watch.step(step + 1, settings.steps)
        if losses[-1].total < settings.stop_loss or step == settings.steps - 1:
            break
        if not any(p.grad is not None and bool(p.grad.any()) for p in parameters):
            raise ValueError(
                "the loss has no gradient in the trained weights, because the layer writes nothing there; choose "
                "another layer"
            )
        _step(optimiser, parameters, trained, after_step)
    return tuple(losses)


def _step(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[torch.Tensor],
    trained: Sequence[torch.Tensor],
    after_step: Callable[[Sequence[torch.Tensor]], None] | None,
) -> None:
    """Take a step in float32 and copy the result into the parameters in their own dtype."""
    for own, parameter in zip(trained, parameters, strict=True):
        own.grad = None if parameter.grad is None else parameter.grad.float()
    optimiser.step()
    if after_step is not None:
        after_step(trained)
    with torch.no_grad():
        for own, parameter in zip(trained, parameters, strict=True):
            parameter.copy_(own)


class _Part:
    """Rows that fit one forward pass."""

    def __init__(self, model: LanguageModel, rows: Sequence[AnswerRow], targets: type[Targets], first: int) -> None:
        self.model, self.ids, self.targets = model, padded(model, rows), targets(rows, model.device)
        # so that memories in the model do not read an answer as part of its prompt
        self.prompts = torch.tensor([row.n_prompt for row in rows], device=model.device)
        with calling(self.prompts):
            self.below = Below(model, self.ids, first)

    def accumulate(self, n_rows: int) -> float:
        """The rows' share of the mean loss over `n_rows`; adds its gradients to the parameters."""
        targets = self.targets
        with self.model.lock, torch.enable_grad(), calling(self.prompts), self.below.given():
            logits = logits_at(self.model, self.ids, (targets.row, targets.position), grad=True)
            loss = targets.nll_there(logits).sum() / n_rows
            loss.backward()
        return float(loss.detach())
