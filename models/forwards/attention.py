"""Cutting attention edges: in chosen layers, chosen queries no longer read chosen keys.

An edge is cut in the mask that the attention module is given, before its softmax, so the remaining weights add up to
one again (Geva et al. 2023, arXiv:2304.14767).  Attention modules take one of four kinds
of mask: none (plain causal), numbers to add, booleans for what may be read, or for what may not (MPT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from models.language_model import LanguageModel


@contextmanager
def edges_cut(model: LanguageModel, cut: Mapping[int, Tensor]) -> Iterator[None]:
    """While open, the model runs without these edges; the lock is held so that no other thread's forward is cut.

    Args:
        cut: layer -> [row, query, key], true where the query must not read the key; a single row broadcasts.  Every
            query must keep at least one key.

    Raises:
        ValueError: at the forward, if the attention module takes no mask.
    """
    with model.lock, ExitStack() as stack:
        for layer, edges in cut.items():
            # the module that holds the output projection is the one that takes the mask
            module = model.module.get_submodule(model.architecture.heads_path(layer).rpartition(".")[0])
            hook = module.register_forward_pre_hook(_without(model, edges), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _without(model: LanguageModel, edges: Tensor) -> Callable[..., Any]:
    def hook(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "attention_mask" not in kwargs:
            raise ValueError(f"the attention of {model.architecture.family} models takes no mask to cut edges in")
        held: Tensor | None = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": _cut(held, edges[:, None].to(model.device), model.dtype)}

    return hook


def _cut(mask: Tensor | None, edges: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask [row, 1, query, key] without the edges; a new one, since the layers share theirs."""
    if mask is None:
        mask = torch.zeros(edges.shape[2:], dtype=dtype, device=edges.device)
        later = torch.ones_like(mask, dtype=torch.bool).triu(1)
        mask = mask.masked_fill(later, torch.finfo(dtype).min)[None, None]
    if mask.dtype != torch.bool:
        return mask.masked_fill(edges, torch.finfo(mask.dtype).min)
    # the first token never reads the last, so true there means that true forbids
    forbids = mask.shape[-1] > 1 and bool(mask[0, 0, 0, -1])
    return mask | edges if forbids else mask & ~edges
