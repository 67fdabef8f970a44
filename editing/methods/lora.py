"""LoRA: train a low-rank change of several projections on the new answers; about half of the bundled model's neighbours
keep their answer (docs/methods.md), fewer on pretrained models.

Hu et al. 2021, section 4.1 (arXiv:2106.09685).  Beside a projection x -> W x runs

    (alpha / r) B A x,    A [r, d_in] drawn from N(0, 1 / d_in),    B [d_out, r] = 0,

so that training starts from the unchanged model; Adam trains only A and B.  Defaults follow EasyEdit (rank 8, alpha 32)
with plain LoRA in place of AdaLoRA, no dropout, a smaller learning rate and an early stop, because with EasyEdit's 5e-3
a small model loses its neighbours.

Symbols: A cols, B rows, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from editing.configs import check_config
from editing.method import Change, Method, Task
from editing.ops import WeightDelta
from editing.parts.answers import AnswerRow, padded
from editing.parts.descent import DescentSettings, descend
from editing.parts.diagnosis import size_diagnostic
from models import LanguageModel, as_out_in
from models.forwards.partial import logits_at

ATTENTION_INPUTS = frozenset({"q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "Wqkv"})
"""Projections into the attention that are adapted, by the names families give them: queries and values as in the paper,
or the fused projection where they are one matrix."""


MEASURED = 64
"""Prompts from which the units of the learning rates are read; more would tell nothing new."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig(DescentSettings):
    """Settings of LoRA.

    Raises:
        ValueError: if a value is out of its range.
    """

    stop_loss: float = field(default=0.05, metadata={"help": "Training stops below this loss.", "min": 0.0})
    rank: int = field(default=8, metadata={"help": "Rank of the change of each matrix.", "min": 1, "max": 4096})
    alpha: float = field(
        default=32.0, metadata={"help": "The change is scaled by this over the rank.", "min": 1e-6, "max": 1e6}
    )
    targets: Literal["attention", "mlp"] = field(
        default="attention",
        metadata={
            "help": "What is adapted in every layer: queries and values, or the MLP's down projection.",
            "choices": ("attention", "mlp"),
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the starting point.", "min": 0, "max": 2**31 - 1})

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True, eq=False)
class Adapter:
    """The trained factors beside one projection."""

    path: str
    rows: torch.Tensor
    """B, [d_out, r]."""
    cols: torch.Tensor
    """A, [r, d_in]."""
    scale: float

    def __call__(self, _module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook: the output plus the adapter's part."""
        extra = (inputs[0].float() @ self.cols.T) @ self.rows.T
        return output + (self.scale * extra).to(output.dtype)

    def delta(self) -> WeightDelta:
        """The same as a change of the projection's weight."""
        return WeightDelta(f"{self.path}.weight", (self.scale * self.rows).detach(), self.cols.detach().clone())


def target_paths(model: LanguageModel, targets: str) -> list[str]:
    """Paths of the adapted projections.

    Raises:
        ValueError: if the family's attention has none of the known names.
    """
    layers = range(model.n_layers)
    if targets == "mlp":
        return [model.architecture.key_path(layer) for layer in layers]
    paths = []
    for layer in layers:
        attention = model.architecture.attn_path(layer)
        for inside, _ in model.module.get_submodule(attention).named_modules():
            if inside.rpartition(".")[2] in ATTENTION_INPUTS:
                paths.append(f"{attention}.{inside}")
    if not paths:
        raise ValueError(
            f"the attention of {model.name} has no projection named {', '.join(sorted(ATTENTION_INPUTS))}; "
            "set targets to mlp"
        )
    return paths


def make_adapters(model: LanguageModel, config: LoraConfig) -> list[Adapter]:
    """One adapter a projection, B zero and A drawn with the seed."""
    generator = torch.Generator().manual_seed(config.seed)
    adapters = []
    for path in target_paths(model, config.targets):
        d_out, d_in = as_out_in(model.module.get_submodule(path), model.weight(f"{path}.weight")).shape
        cols = torch.randn(config.rank, d_in, generator=generator) / d_in**0.5
        rows = torch.zeros(d_out, config.rank)
        trained = [factor.to(model.device).requires_grad_(True) for factor in (rows, cols)]
        adapters.append(Adapter(path, trained[0], trained[1], config.alpha / config.rank))
    return adapters


def rate_units(model: LanguageModel, adapters: Sequence[Adapter], rows: Sequence[AnswerRow]) -> list[float]:
    """Units of the learning rates of every adapter's B and A.

    A step of one unit changes what the projection writes at the prompts' ends by as much as it writes there, by way of
    B, and A by its own size.
    """
    rows = rows[:MEASURED]
    ends = torch.tensor([row.n_prompt - 1 for row in rows], device=model.device)
    read: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for adapter in adapters:
            module = model.module.get_submodule(adapter.path)

            def note(_: Any, inputs: tuple[torch.Tensor, ...], path: str = adapter.path) -> None:
                read[path] = inputs[0].detach()[torch.arange(len(rows)), ends].float()

            stack.callback(module.register_forward_pre_hook(note).remove)
        logits_at(model, padded(model, rows), (torch.tensor([0]), ends[:1]))
    units = []
    for adapter in adapters:
        weight = as_out_in(model.module.get_submodule(adapter.path), model.weight(f"{adapter.path}.weight")).float()
        own = (read[adapter.path] @ weight.T).square().mean().sqrt()
        moved = adapter.scale * (read[adapter.path] @ adapter.cols.detach().T).abs().sum(1).mean()
        units += [float(own / moved), adapter.cols.shape[1] ** -0.5]
    return units


class LoraMethod(Method):
    """`METHODS["lora"]`."""

    name = "lora"
    title = "LoRA"
    family = "fine-tuning"
    config_type = LoraConfig
    batch = True

    def change(self, task: Task) -> Change:
        """The trained low-rank changes.

        Raises:
            ValueError: if a prompt does not fit, or there is nothing to adapt.
            Cancelled: if the watch says to stop.
        """
        private = task.model.view()  # hooks on its modules affect no other view
        adapters = make_adapters(private, task.config)
        units = rate_units(private, adapters, task.rows) if task.config.rate_unit == "reach" else []
        with ExitStack() as stack:
            for adapter in adapters:
                handle = private.module.get_submodule(adapter.path).register_forward_hook(adapter)
                stack.callback(handle.remove)
            parameters = [factor for adapter in adapters for factor in (adapter.rows, adapter.cols)]
            losses = descend(private, task.rows, parameters, task.config, units=units, watch=task.watch.part(0, 98))
        ops = tuple(adapter.delta() for adapter in adapters)
        return Change(ops=ops, losses=losses, diagnostics=(size_diagnostic(task.model, ops),))
