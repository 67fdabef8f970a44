"""Fine-tuning one weight on the new answers: the baselines every editing method has to beat.

    FT    Adam on one layer's down projection, all of the answer's tokens wanted at the prompt's last position: the
          baseline of Meng et al. 2022, section 3.4 (arXiv:2202.05262)
    FT-L  the same, every entry held within epsilon of where it was: Zhu et al. 2020 (arXiv:2012.00363), "FT+L" there
    FT-M  the usual causal loss, on the answer's tokens alone: EasyEdit's "target_new", Zhang et al. 2024
          (arXiv:2401.01286)

Only the weight is trained; its bias, which the public code trains along by an accident of names, stays.  FT-L's epsilon
is absolute in the papers (5e-4 for GPT-2 XL) and means nothing on another model: here it is a multiple of the weight's
mean absolute entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch

from editing.applied.view import apply_edits
from editing.configs import check_config
from editing.edit import Edit
from editing.ops import DenseDelta
from editing.parts.answers import Targets, new_answers, probabilities
from editing.parts.descent import DescentSettings, PromptEndTargets, descend
from editing.parts.diagnosis import answer_diagnostics, size_diagnostic
from editing.requests import check_batch, check_layer
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, as_out_in


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(DescentSettings):
    """Settings of FT and FT-M.

    Raises:
        ValueError: if a value is out of its range.
    """

    layer: int = field(default=3, metadata={"help": "Layer whose MLP is trained, counted from 0.", "min": 0})

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, kw_only=True)
class ConstrainedConfig(FineTuneConfig):
    """Settings of FT-L.

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


class FineTuneMethod:
    """`METHODS["ft"]`, and what FT-L and FT-M have in common with it."""

    name = "ft"
    title = "FT"
    family = "fine-tuning"
    config_type: type[Any] = FineTuneConfig
    batch = True
    needs = frozenset[str]()
    targets: type[Targets] = PromptEndTargets

    def compute(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: Any,
        *,
        active: Sequence[Edit] = (),
        watch: Watch = UNWATCHED,
    ) -> Edit:
        """The trained change of one weight; computed, not applied: the model is left bit for bit as it was.

        Args:
            watch: told the percentage done.

        Raises:
            ValueError: if the layer is out of range or writes nothing, a prompt does not fit, or requests contradict
                each other.
            Cancelled: if `watch` says to stop.
        """
        check_layer(model, config.layer)
        check_batch(model, requests)
        began = perf_counter()
        rows = new_answers(model, requests)
        before = probabilities(model, rows)
        name = model.architecture.key_weight_name(config.layer)
        private = model.view({name: model.weight(name)})  # a tree and a copy of the weight of our own
        weight = private.weight(name).requires_grad_(True)
        start = weight.detach().clone()
        losses = descend(
            private,
            rows,
            [weight],
            config,
            targets=self.targets,
            after_step=self.constraint(start.float(), config),
            watch=watch.part(0, 98),
        )
        change = as_out_in(model.key_module(config.layer), weight.detach().float() - start.float()).contiguous()
        edit = Edit(self.name, tuple(requests), config, (DenseDelta(name, change),), model.revision, losses=losses)
        after = probabilities(apply_edits(model, [edit]), rows)
        own = [size_diagnostic(model, edit), *answer_diagnostics(edit, before, after)]
        watch.step(100, 100)
        return replace(edit, diagnostics=tuple(own), seconds={"training": perf_counter() - began})

    def constraint(self, start: torch.Tensor, config: Any) -> Callable[[Sequence[torch.Tensor]], None] | None:
        """What holds the trained weight after a step; nothing here."""
        return None


class ConstrainedMethod(FineTuneMethod):
    """`METHODS["ft-l"]`."""

    name = "ft-l"
    title = "FT-L"
    config_type = ConstrainedConfig

    def constraint(self, start: torch.Tensor, config: ConstrainedConfig) -> Callable[[Sequence[torch.Tensor]], None]:
        """Back into the box of half-width epsilon around the start."""
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
