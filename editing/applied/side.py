"""A side weight beside a layer's own weight, and the switch between the two (WISE).

Wang et al. 2024, sections 3.1 and 3.2 (arXiv:2405.14768).  A row takes the side weight W' where the mean over its
prompt's tokens of

    activation(x) = |(W' - W) x|

exceeds `ratio` x the smallest activation of the edits in W'.  This is decided once for each row, when the prompt is
read.  Edits of one shard share one W'; several shards are merged into one (TIES, Yadav et al. 2023,
arXiv:2306.01708), or the most active one above its threshold is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editing.applied.codebook import rows_and_ends
from editing.ops import SideOp
from models.calls import current_call


@dataclass(frozen=True, eq=False)
class Shard:
    """One side weight, as its difference from the layer's own."""

    change: torch.Tensor
    """[d_out, d_in], W' - W."""
    threshold: float
    """Rows with a higher activation use the side weight."""

    def activation(self, inputs: torch.Tensor) -> torch.Tensor:
        """|(W' - W) x|: [..., d_in] -> [...]."""
        return (inputs @ self.change.to(inputs).T).norm(dim=-1)


def fold(ops: Sequence[SideOp]) -> tuple[Shard, ...]:
    """The side weights of the active edits at one layer: one for each shard, or a single merged one."""
    by_shard: dict[int, list[SideOp]] = {}
    for op in ops:
        by_shard.setdefault(op.shard, []).append(op)
    shards = [Shard(_summed(some), min(op.activation * op.ratio for op in some)) for some in by_shard.values()]
    density = ops[-1].density
    if density and len(shards) > 1:
        merged = ties([shard.change for shard in shards], density)
        return (Shard(merged, min(shard.threshold for shard in shards)),)
    return tuple(shards)


def _summed(ops: Sequence[SideOp]) -> torch.Tensor:
    """[d_out, d_in], the changes of one shard's edits added up in their order."""
    total = torch.zeros(ops[0].shape[0] * ops[0].shape[1], dtype=torch.float64)
    for op in ops:
        total.index_add_(0, op.index.cpu(), op.change.double().cpu())
    return total.reshape(ops[0].shape)


def ties(changes: Sequence[torch.Tensor], density: float) -> torch.Tensor:
    """Merge changes of one weight: trim each to its largest entries, elect a sign an entry, average those that agree.

    Args:
        changes: [d_out, d_in] each.
        density: share of each change's nonzero entries that is kept, in (0, 1].
    """
    trimmed = torch.stack([_trimmed(change, density) for change in changes])
    elected = trimmed.sum(0).sign()
    agreeing = torch.where(trimmed.sign() == elected, trimmed, torch.zeros_like(trimmed))
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)


def _trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    sizes = change.abs().flatten()
    keep = round(density * int((sizes > 0).sum()))
    if keep == 0:
        return torch.zeros_like(change)
    smallest = sizes.topk(keep).values[-1]
    return torch.where(change.abs() >= smallest, change, torch.zeros_like(change))


class SideRewrite:
    """Replaces the layer's output in rows that use a side weight; a `models.views.Rewrite`."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)

    def __call__(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The layer's output: W' x + b in rows that use the side weight, and the unchanged bits in all others."""
        rows, ends = rows_and_ends(inputs)
        call = current_call()
        if call is None or call.reads_prompt:
            choice = self.choose(rows, ends)
            if call is not None:
                call.decisions[id(self)] = choice
        else:
            choice = call.decisions[id(self)]
        if not bool((choice >= 0).any()):
            return output
        shaped = output.reshape(*rows.shape[:2], output.shape[-1]).clone()
        for index, shard in enumerate(self.shards):
            chosen = choice == index
            if bool(chosen.any()):
                shaped[chosen] = shaped[chosen] + rows[chosen] @ shard.change.to(rows).T
        return shaped.reshape(output.shape)

    def choose(self, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """[batch], the shard that each row uses, or -1 for the layer's own weight.

        Args:
            rows: [batch, pos, d_in].
            ends: [batch], tokens of each prompt.
        """
        inside = torch.arange(rows.shape[1], device=rows.device)[None] < ends[:, None]
        best = torch.full((len(rows),), -1, device=rows.device)
        highest = torch.full((len(rows),), -torch.inf, device=rows.device)
        for index, shard in enumerate(self.shards):
            mean = (shard.activation(rows) * inside).sum(1) / ends
            wins = (mean > shard.threshold) & (mean > highest)
            best, highest = torch.where(wins, index, best), torch.where(wins, mean, highest)
        return best
