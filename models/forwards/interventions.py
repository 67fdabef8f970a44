"""Read and rewrite activations during one forward, through nnsight.

This module settles which module a site is, whether it returns a tensor or a tuple, OPT's flattened MLP, and the order
in which a block computes.  Whatever is read is copied, since some families later add to an output in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.forwards.hooks import sequence_length
from models.forwards.sites import INPUTS, Key, Site, Visit, in_execution_order, site_path
from models.language_model import LanguageModel

__all__ = ["Patch", "Run", "Site", "run", "run_batched", "run_traced"]

Patch = Callable[[Tensor], Tensor]
"""From an activation [batch, pos, d] to its replacement."""


@dataclass(frozen=True, eq=False)
class Run:
    """The result of one forward."""

    logits: Tensor
    """[batch, pos, d_vocab], float32; pos is 1 with `last_only`."""
    captured: dict[Key, Tensor]
    """(site, layer) -> [batch, pos, d_model], [batch, pos, d_mlp] for mlp_key; copies, taken after patching."""


def run(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    captures: Collection[Key] = (),
    patches: Mapping[Key, Patch] | None = None,
    grad: bool = False,
    last_only: bool = False,
) -> Run:
    """Run one forward that reads and rewrites activations; the model's lock is held throughout.

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
    keys = in_execution_order(model, [*captures, *wanted])
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(model.device)
    if position_ids is not None:
        inputs["position_ids"] = position_ids.to(model.device)
    if last_only:
        inputs["logits_to_keep"] = 1
    captured: dict[Key, Tensor] = {}
    kept = frozenset(captures)
    visits = {key: _visitor(key, wanted.get(key), captured if key in kept else None) for key in keys}
    with model.lock, torch.set_grad_enabled(grad):
        logits = run_traced(model, inputs, visits)
    return Run(logits.float(), captured)


def run_batched(
    model: LanguageModel,
    input_ids: Tensor,
    *,
    batch_size: int,
    captures: Collection[Key] = (),
    last_only: bool = False,
) -> Run:
    """`run` on slices of the batch, concatenated; the lock is released between slices so that other threads get a turn.

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


def run_traced(model: LanguageModel, inputs: Mapping[str, Any], visits: Mapping[Key, Visit]) -> Tensor:
    """`models.forwards.hooks.run_hooked`, by nnsight: the same visits, the same logits [row, pos, d_vocab].

    Small, because nnsight keeps a traced function's variables alive until it returns.

    Raises:
        ValueError: if a site or layer does not exist.
    """
    import nnsight  # takes a seventh of the time of all imports, and reading a prompt does without

    order, length, wrapped = in_execution_order(model, list(visits)), sequence_length(inputs), model.wrapped
    with wrapped.trace(**inputs):
        for key in order:
            visit_module(wrapped.get(site_path(model.architecture, key)), key[0] in INPUTS, visits[key], length)
        logits = nnsight.save(wrapped.output.logits)
    kept: Tensor = logits
    return kept


def visit_module(module: Any, reads: bool, visit: Visit, length: int) -> None:
    """Wait for one activation, pass it to the visit as [row, pos, d], and write its replacement."""
    held = module.input if reads else module.output
    value: Tensor = held[0] if isinstance(held, tuple) else held
    flat = value.ndim == 2  # OPT folds [row, pos] into one axis around its MLP
    new = visit(value.reshape(-1, length, value.shape[-1]) if flat else value)
    if new is None:
        return
    new = new.reshape(-1, new.shape[-1]) if flat else new
    if reads:
        module.input = new
    else:
        module.output = (new, *held[1:]) if isinstance(held, tuple) else new


def add_low_rank(module: Any, rows: Tensor, cols: Tensor) -> None:
    """Wait for a layer, and add (x cols^T) rows^T to what it gives; rows [d_out, rank], cols [rank, d_in]."""
    read = module.input
    module.output = module.output + (read @ cols.to(read).T) @ rows.to(read).T


def _visitor(key: Key, patch: Patch | None, captured: dict[Key, Tensor] | None) -> Visit:
    """Patch a copy, check the shape, keep a copy of what came out."""

    def visit(value: Tensor) -> Tensor | None:
        new = None if patch is None else _patched(patch, value, key)
        if captured is not None:
            captured[key] = (value if new is None else new).clone()
        return new

    return visit


def _patched(patch: Patch, value: Tensor, key: Key) -> Tensor:
    """The patch's result, checked: only resid_post may change the number of rows."""
    new = patch(value.clone())
    free = 1 if key[0] == "resid_post" else 0
    if new.ndim != 3 or new.shape[free:] != value.shape[free:]:
        raise ValueError(f"the patch at {key} returned shape {list(new.shape)}; expected {list(value.shape)}")
    return new.to(value.dtype)
