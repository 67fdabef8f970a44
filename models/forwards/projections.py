"""The matrices that make queries, keys and values of what an attention reads: keeping what they give, and not running
them again where it is known.

They work on every position by itself.  So rows that part from a run whose projections were kept have the same ones in
the layer where they part, a quarter of a block's arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from models.architectures import as_out_in
from models.forwards.hooks import instead
from models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Known:
    """Rows of a batch whose projections need not be computed."""

    rows: range
    fill: Callable[[int, Tensor], None]
    """Writes what the projection of that index gives for these rows into [row, pos, d_out]."""


def projections(model: LanguageModel, layer: int) -> tuple[nn.Module, ...]:
    """The modules of one block that read the attention's input; none where one of them is anything but a matrix on the
    model's device (of an offloaded model, for one)."""
    output = model.architecture.heads_path(layer)
    parent, _, name = output.rpartition(".")
    modules = [module for child, module in model.submodules[parent].named_children() if child != name]
    matrices = [module for module in modules if isinstance(module, nn.Linear | Conv1D)]
    usable = all(type(each) in (nn.Linear, Conv1D) and not hasattr(each, "_hf_hook") for each in matrices)
    # DeepSeek's come in pairs, of which the second reads what the first gives
    return tuple(each for each in matrices if as_out_in(each, each.weight).shape[1] == model.d_model) if usable else ()


@contextmanager
def kept_projections(model: LanguageModel, kept: dict[int, tuple[Tensor, ...]]) -> Iterator[None]:
    """While open, this thread's forward notes every layer's projections, [row, pos, d_out] each; the lock is held."""
    found: dict[tuple[int, int], Tensor] = {}
    owner = threading.get_ident()

    def keeping(key: tuple[int, int]) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            if threading.get_ident() == owner:
                found[key] = output  # no family writes to it

        return hook

    modules = {layer: projections(model, layer) for layer in range(model.n_layers)}
    with model.lock, ExitStack() as stack:
        for layer, parts in modules.items():
            for index, module in enumerate(parts):
                stack.callback(module.register_forward_hook(keeping((layer, index))).remove)
        yield
    for layer, parts in modules.items():
        if parts:
            kept[layer] = tuple(found[layer, index] for index in range(len(parts)))


@contextmanager
def known_projections(model: LanguageModel, known: Mapping[int, Known]) -> Iterator[None]:
    """While open, this thread's forwards leave out the rows known in each layer; the lock is held."""
    with model.lock, ExitStack() as stack:
        for layer, each in known.items():
            for index, module in enumerate(projections(model, layer)):
                stack.enter_context(instead(module, partial(_without, module, index, each)))
        yield


@torch.no_grad()
def _without(module: Any, index: int, known: Known, value: Tensor) -> Tensor:
    """Computed into place: joining parts afterwards would cost what is saved."""
    weight = module.weight if isinstance(module, Conv1D) else module.weight.T
    out = value.new_empty(*value.shape[:-1], weight.shape[1])
    for part in (slice(0, known.rows.start), slice(known.rows.stop, len(value))):
        if part.start < part.stop:
            rows, place = value[part].flatten(0, -2), out[part].flatten(0, -2)
            if module.bias is None:
                torch.mm(rows, weight, out=place)
            else:
                torch.addmm(module.bias, rows, weight, out=place)
    known.fill(index, out[known.rows.start : known.rows.stop])
    return out
