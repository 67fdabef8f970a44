"""The gradient of a linear layer's weight in factors: for y = W x, dL/dW = sum over tokens of (dL/dy_t) x_t^T.

This is what MEND and KE transform instead of the full matrix (Mitchell et al. 2022, section 3.1, arXiv:2110.11309).
x_t and dL/dy_t are read off the layer's input and output, so Conv1D and Linear give the same factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editing.requests import check_layer
from editing.train.forward import Forward
from editing.train.rows import Rows
from models import LanguageModel, as_out_in


@dataclass(frozen=True, eq=False)
class Factors:
    """One weight's gradient for each edit, float32, detached."""

    inputs: Tensor
    """[edit, pos, d_in], x_t"""
    grads: Tensor
    """[edit, pos, d_out], dL/dy_t; zero at padding and where the loss has no gradient."""

    @property
    def reached(self) -> Tensor:
        """[edit, pos] bool: the tokens that contribute to the gradient."""
        return (self.grads != 0).any(-1) & (self.inputs != 0).any(-1)

    def matrices(self) -> Tensor:
        """The dense gradients, [edit, d_out, d_in]."""
        return self.grads.transpose(1, 2) @ self.inputs


def gradient_factors(forward: Forward, rows: Rows, names: Sequence[str]) -> dict[str, Factors]:
    """Factors of each row's mean answer NLL, for the weights of that name.

    The loss is summed over rows, so that no row's gradient depends on another row.

    Args:
        names: parameter names, such as "transformer.h.3.mlp.c_proj.weight", of Linear or Conv1D modules.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def reader(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # the first layer's output has no graph yet; without one there is nothing to differentiate by
            held = output if output.requires_grad else output.detach().requires_grad_()
            inputs[name], outputs[name] = args[0].detach(), held
            return held

        return hook

    handles = [forward.module_of(name).register_forward_hook(reader(name)) for name in names]
    try:
        with torch.enable_grad():
            loss = rows.nll(forward.log_probs(rows)).sum()
            gradients = torch.autograd.grad(loss, [outputs[name] for name in names])
    finally:
        for handle in handles:
            handle.remove()

    def by_row(states: Tensor) -> Tensor:
        return states.detach().float().reshape(rows.n_rows, -1, states.shape[-1])  # OPT runs its MLP on [row x pos]

    return {name: Factors(by_row(inputs[name]), by_row(grad)) for name, grad in zip(names, gradients, strict=True)}


def weight_shapes(model: LanguageModel, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Parameter name -> (d_in, d_out), also where the module stores the weight transposed.

    Raises:
        ValueError: if a name is no weight of a Linear or Conv1D.
    """
    shapes = {}
    for name in names:
        d_out, d_in = as_out_in(model.module.get_submodule(name.rpartition(".")[0]), model.weight(name)).shape
        shapes[name] = (int(d_in), int(d_out))
    return shapes


def mlp_weights(model: LanguageModel, layers: Sequence[int]) -> tuple[str, ...]:
    """Names of the MLP's linear weights in the given blocks, in the order they run: GPT-2's c_fc and c_proj, Llama's
    gate, up and down projection.

    Raises:
        ValueError: if a layer is out of range.
    """
    names: list[str] = []
    for layer in layers:
        check_layer(model, layer)
        down = model.architecture.key_path(layer)
        parent = down.rpartition(".")[0]
        siblings = [
            f"{parent}.{child}"
            for child, module in model.module.get_submodule(parent).named_children()
            if _is_matrix(module)
        ]
        names += [f"{path}.weight" for path in siblings if path != down] + [f"{down}.weight"]
    return tuple(names)


def _is_matrix(module: nn.Module) -> bool:
    """Whether a module is Linear or Conv1D, by its attributes, since only the models package imports Conv1D."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
