"""Reading and rewriting activations during one forward, with nnsight underneath.

Here, once: which module a site is, whether it returns a tensor or a tuple, OPT's flattened MLP, the order in
which a block computes, and that whatever is read is copied (some families add to an output in place later).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import nnsight
import torch
from torch import Tensor

from models.language_model import LanguageModel

Site = Literal["embed", "attn_heads", "attn_out", "mlp_key", "mlp_out", "resid_post"]
"""In the order a block computes them.

embed: output of the token embedding, before positions, layer 0.  attn_heads: input of the attention's output
projection, every head's part after the other.  attn_out, mlp_out: what attention and MLP write to the residual stream.
mlp_key: input of the MLP's down projection.  resid_post: the block's output.
"""
Patch = Callable[[Tensor], Tensor]
_ORDER = {site: rank for rank, site in enumerate(get_args(Site))}
_INPUTS: frozenset[Site] = frozenset({"attn_heads", "mlp_key"})
"""Sites that are what a module reads, not what it returns."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one forward gave."""

    logits: Tensor
    """[batch, pos, d_vocab], float32; pos is 1 when only the last position was asked for."""
    captured: dict[tuple[Site, int], Tensor]
    """(site, layer) -> [batch, pos, d_model], [batch, pos, d_mlp] for mlp_key; copies, taken after patching."""


def run(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    captures: Collection[tuple[Site, int]] = (),
    patches: Mapping[tuple[Site, int], Patch] | None = None,
    grad: bool = False,
    last_only: bool = False,
) -> Run:
    """One forward that reads and rewrites activations on the way; the model's lock is held throughout.

    Args:
        input_ids: [batch, pos].  Rows padded on the right need no mask: attention is causal.
        attention_mask: [batch, pos], 1 for real tokens; left out, every token is real.
        position_ids: [batch, pos]; left out, they count from 0.
        captures: (site, layer) pairs to return.  The embedding is ("embed", 0).
        patches: (site, layer) -> function from the activation [batch, pos, d] to its replacement.  It gets a copy it
            may write to.  At resid_post the replacement may hold any number of rows, and the later layers go on
            with those, provided that `input_ids` has one row and no mask is given.  A patch must not run the model.
        grad: record gradients, for a patch that adds a tensor with `requires_grad`.
        last_only: compute logits at the last position alone.

    Raises:
        ValueError: if a site or layer does not exist, ids are not [batch, pos] or too long, or a patch returns a
            tensor of another shape.
    """
    ids = model.checked_ids(input_ids)
    wanted = patches or {}
    order = _in_execution_order(model, [*captures, *wanted])
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(model.device)
    if position_ids is not None:
        inputs["position_ids"] = position_ids.to(model.device)
    if last_only:
        inputs["logits_to_keep"] = 1
    with model.lock, torch.set_grad_enabled(grad):
        return _traced(model, inputs, order, frozenset(captures), wanted)


def run_batched(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    batch_size: int,
    captures: Collection[tuple[Site, int]] = (),
    last_only: bool = False,
) -> Run:
    """`run` on slices of the batch, joined again; the lock is let go between slices so that others get a turn.

    Args:
        input_ids: [batch, pos].
        batch_size: rows in a slice.

    Raises:
        ValueError: as `run`; also if there are no rows or `batch_size` is below 1.
    """
    if batch_size < 1 or len(input_ids) < 1:
        raise ValueError(f"batch_size is {batch_size} for {len(input_ids)} rows; expected at least 1 of each")
    parts = [run(model, rows, captures=captures, last_only=last_only) for rows in input_ids.split(batch_size)]
    return Run(
        logits=torch.cat([part.logits for part in parts]),
        captured={key: torch.cat([part.captured[key] for part in parts]) for key in parts[0].captured},
    )


def _traced(
    model: LanguageModel,
    inputs: dict[str, Any],
    order: list[tuple[Site, int]],
    captures: frozenset[tuple[Site, int]],
    patches: Mapping[tuple[Site, int], Patch],
) -> Run:
    """The forward itself.  Small, because nnsight keeps a traced function's variables alive until it returns."""
    captured: dict[tuple[Site, int], Tensor] = {}
    pos = inputs["input_ids"].shape[1]
    wrapped = model.wrapped
    with wrapped.trace(**inputs):
        for key in order:
            value = _visit(wrapped, model, key, pos, patches.get(key))
            if key in captures:
                captured[key] = value.clone()
        logits = nnsight.save(wrapped.output.logits)
    return Run(logits.float(), captured)


def _visit(wrapped: Any, model: LanguageModel, key: tuple[Site, int], pos: int, patch: Patch | None) -> Tensor:
    """Wait for one activation, patch it, and give it as [batch, pos, d]."""
    site, layer = key
    module = wrapped.get(_path(model, site, layer))
    held = module.input if site in _INPUTS else module.output
    value: Tensor = held[0] if isinstance(held, tuple) else held
    flat = value.ndim == 2  # OPT folds [batch, pos] into one axis around its MLP
    shaped = value.reshape(-1, pos, value.shape[-1]) if flat else value
    if patch is None:
        return shaped
    shaped = _patched(patch, shaped, key)
    new = shaped.reshape(-1, shaped.shape[-1]) if flat else shaped
    if site in _INPUTS:
        module.input = new
    else:
        module.output = (new, *held[1:]) if isinstance(held, tuple) else new
    return shaped


def _patched(patch: Patch, value: Tensor, key: tuple[Site, int]) -> Tensor:
    """The replacement a patch gives, checked: only resid_post may change the number of rows."""
    new = patch(value.clone())
    free = 1 if key[0] == "resid_post" else 0
    if new.ndim != 3 or new.shape[free:] != value.shape[free:]:
        raise ValueError(f"the patch at {key} returned shape {list(new.shape)}; expected {list(value.shape)}")
    return new.to(value.dtype)


def _path(model: LanguageModel, site: Site, layer: int) -> str:
    names = model.architecture
    if site == "embed":
        return names.embedding
    if site == "attn_heads":
        return names.heads_path(layer)
    if site == "attn_out":
        return names.attn_path(layer)
    if site == "mlp_out":
        return names.mlp_path(layer)
    if site == "mlp_key":
        return names.key_path(layer)
    return names.block(layer)


def _in_execution_order(model: LanguageModel, keys: Collection[tuple[Site, int]]) -> list[tuple[Site, int]]:
    """The distinct keys in the order the model computes them, as nnsight asks for.

    Attention runs before the MLP in every supported family, the parallel ones included.
    """
    for site, layer in keys:
        if site not in _ORDER:
            raise ValueError(f"unknown site {site!r}; choose from {', '.join(_ORDER)}")
        last = 0 if site == "embed" else model.n_layers - 1
        if not 0 <= layer <= last:
            raise ValueError(f"layer {layer} is out of range for {site}; {model.name} has layers 0 to {last} there")
    return sorted(set(keys), key=lambda key: (key[0] != "embed", key[1], _ORDER[key[0]]))
