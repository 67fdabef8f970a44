"""Fine-tune one weight on the new answers: the baselines for every editing method; of the bundled model's neighbours
only 13 to 15 % keep their answer (docs/methods.md).

    FT    Adam on one layer's down projection, every answer token a target at the prompt's last position: the
          baseline of Meng et al. 2022, section 3.4 (arXiv:2202.05262)
    FT-L  the same, every entry held within epsilon of where it was: Zhu et al. 2020 (arXiv:2012.00363), "FT+L" there
    FT-M  the usual causal loss, on the answer's tokens alone: EasyEdit's "target_new", Zhang et al. 2024
          (arXiv:2401.01286)

Only the weight is trained.  (The public code also trains its bias, because it selects parameters by a part of their
name.)  FT-L's epsilon is absolute in the papers (5e-4 for GPT-2 XL); here it is a multiple of the weight's mean
absolute entry, so that it carries over between models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from editing.configs import check_config
from editing.method import Change, Method, Task
from editing.ops import DenseDelta
from editing.parts.answers import Targets
from editing.parts.descent import DescentSettings, PromptEndTargets, descend
from editing.parts.diagnosis import size_diagnostic
from editing.parts.reach import read_ends
from models import as_out_in


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(DescentSettings):
    """Settings of FT and FT-M.

    Raises:
        ValueError: if a value is out of its range.
    """

    layer: int = field(  # type: ignore[assignment]  # None until the model is known: `editing.method.settled`
        default=None,
        metadata={
            "help": "Layer whose MLP is trained, counted from 0; a quarter of the depth if not given.",
            "min": 0,
            "share": 0.25,
        },
    )

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, kw_only=True)
class ConstrainedConfig(FineTuneConfig):
    """Settings of FT-L: fine-tuning in which every entry of the weight stays within `epsilon` of its start.

    Raises:
        ValueError: if a value is out of its range.
    """

    epsilon: float = field(
        default=0.5,
        metadata={
            "help": "Farthest any entry may move, in units of the weight's mean absolute entry.",
            "min": 0.0,
            "max": 1e6,
        },
    )


class FineTuneMethod(Method):
    """`METHODS["ft"]`, and the base of FT-L and FT-M."""

    name = "ft"
    title = "FT"
    family = "fine-tuning"
    config_type: type[Any] = FineTuneConfig
    batch = True
    targets: type[Targets] = PromptEndTargets

    def change(self, task: Task) -> Change:
        """The trained change of one weight.

        Raises:
            ValueError: if the layer writes nothing, or a prompt does not fit.
            Cancelled: if the watch says to stop.
        """
        model, config = task.model, task.config
        name = model.architecture.key_weight_name(config.layer)
        private = model.view({name: model.weight(name)})  # its own module tree and its own copy of the weight
        weight = private.weight(name).requires_grad_(True)
        start = weight.detach().clone()
        reach = config.rate_unit == "reach"
        losses = descend(
            private,
            task.rows,
            [weight],
            config,
            units=[read_ends(model, config.layer, task.rows).weight_step] if reach else [],
            first=config.layer,
            targets=self.targets,
            after_step=self.constraint(start.float(), config),
            watch=task.watch.part(0, 98),
        )
        change = as_out_in(model.key_module(config.layer), weight.detach().float() - start.float()).contiguous()
        ops = (DenseDelta(name, change),)
        return Change(ops=ops, losses=losses, diagnostics=(size_diagnostic(model, ops),))

    def constraint(self, start: torch.Tensor, config: Any) -> Callable[[Sequence[torch.Tensor]], None] | None:
        """A function that constrains the trained weight after a step; None here."""
        return None


class ConstrainedMethod(FineTuneMethod):
    """`METHODS["ft-l"]`."""

    name = "ft-l"
    title = "FT-L"
    config_type = ConstrainedConfig

    def constraint(self, start: torch.Tensor, config: ConstrainedConfig) -> Callable[[Sequence[torch.Tensor]], None]:
        """Clamp to the box of half-width epsilon around the start."""
        reach = config.epsilon * start.abs().mean()

        def clamp(trained: Sequence[torch.Tensor]) -> None:
            (weight,) = trained
            weight.copy_(torch.minimum(torch.maximum(weight, start - reach), start + reach))

        return clamp


class MaskedMethod(FineTuneMethod):
    """`METHODS["ft-m"]`."""

    name = "ft-m"
    title = "FT-M"
    targets = Targets
