"""A packed sweep: what one pass does to the activations, as plain tensor functions that need no model.

The pass starts with one dummy row.  After each layer, the blocks that join there are added to the batch, with the base
run's state and the restored position overwritten (`_enter`).  Inside a block's window, and where a path is severed, a
module's output is overwritten at that position (`_restore`, `_sever`).  After the last layer only the positions that
predict the answer go to the output head (`_finish`).  Everything else is an ordinary forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.forwards.projections import Known
from models.forwards.sites import Key, Site, Visit
from tracing.engine.plan import Block, Pack
from tracing.engine.runs import Runs
from tracing.sites import TraceSite


@dataclass(frozen=True, eq=False)
class Sweep:
    """One pass.  Rows are ordered by block, then by sample."""

    pack: Pack
    blocks: Sequence[Block]
    site: TraceSite
    severed: Site | None
    base: Runs
    """The runs into which states are written: a single one, or one for each sample."""
    source: Runs
    """The runs from which those states come: a single one, or one for each sample."""
    n_samples: int
    n_layers: int
    n_heads: int
    gather_mlp: bool
    """Whether the last layer's MLP runs only where its output is needed."""

    def visits(self) -> dict[Key, Visit]:
        """The visits of the forward, by site and layer."""
        last = self.n_layers - 1
        visits: dict[Key, list[Visit]] = {}
        for layer in range(-1, self.n_layers):
            if layer >= 0 and self.severed:
                visits.setdefault((self.severed, layer), []).append(self._sever(layer))
            if any(layer in block.window for block in self.blocks):
                visits.setdefault((self.site, layer), []).append(self._restore(layer))
            if any(block.joins == layer for block in self.blocks):
                key: Key = ("resid_post", layer) if layer >= 0 else ("resid_pre", 0)
                visits.setdefault(key, []).append(self._enter(layer))
        if len(self.pack.ends) < self.pack.size:
            visits["attn_heads", last] = [*visits.get(("attn_heads", last), []), self._gather]
            visits["attn_out", last] = [self._scatter, *visits.get(("attn_out", last), [])]
            if self.gather_mlp:
                visits["mlp_in", last] = [self._gather]
                visits["mlp_out", last] = [self._scatter, *visits.get(("mlp_out", last), [])]
        visits.setdefault(("resid_post", last), []).append(self._finish)
        return {key: _in_turn(visits) for key, visits in visits.items()}

    def known(self) -> dict[int, Known]:
        """By layer, the rows that left the base run just before it.  Attention inputs there are those of the base run,
        and at the restored position those of the source run."""
        visits = {}
        for layer in self.base.projections:
            fresh = sum(block.joins == layer - 1 and block.origin is None for block in self.blocks)
            if fresh:
                start = len(self._live(layer - 1)) * self.n_samples
                visits[layer] = Known(range(start, start + fresh * self.n_samples), self._project(layer))
        return visits

    def _project(self, layer: int) -> Callable[[int, Tensor], None]:
        def fill(index: int, rows: Tensor) -> None:
            blocks = rows.unflatten(0, (-1, self.n_samples))
            blocks.copy_(self.base.projections[layer][index][:, self.pack.source])
            if self.site == "resid_post":
                blocks[:, :, self.pack.starts] = self.source.projections[layer][index][:, self.pack.restored].to(rows)

        return fill

    def answers(self, logits: Tensor) -> Tensor:
        """[block, sample, end, d_vocab], the head's output for the rows that `_finish` folded."""
        shape = (len(self.blocks), self.n_samples, len(self.pack.ends))
        return logits.flatten(0, 1)[: math.prod(shape)].unflatten(0, shape)

    def _live(self, layer: int) -> list[Block]:
        """The blocks whose rows run through a layer; they come first in the batch."""
        return [block for block in self.blocks if block.joins < layer]

    def _enter(self, layer: int) -> Visit:
        """Add the rows that leave the base run after `layer`."""

        def visit(hidden: Tensor) -> Tensor:
            live = self._live(layer)
            parts = [hidden] if live else []
            fresh: Tensor | None = None
            for block in self.blocks:
                if block.joins == layer and block.origin is None:
                    fresh = self._new_rows(layer).to(hidden) if fresh is None else fresh
                    parts.append(fresh)
                elif block.joins == layer and block.origin is not None:
                    parts.append(hidden[block.origin * self.n_samples : (block.origin + 1) * self.n_samples])
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        return visit

    def _new_rows(self, layer: int) -> Tensor:
        """[sample, packed, d_model]: the base run after `layer`, with the block output restored if that is the site."""
        key: Key = ("resid_post", layer) if layer >= 0 else ("resid_pre", 0)
        rows = self.base.states[key][:, self.pack.source]
        if len(rows) < self.n_samples:
            rows = rows.repeat(self.n_samples, 1, 1)
        if self.site == "resid_post":
            rows[:, self.pack.starts] = self.source.states[key][:, self.pack.restored]
        return rows

    def _restore(self, layer: int) -> Visit:
        """Overwrite the restored position in blocks whose window includes the layer."""
        live = self._live(layer)
        chosen = [index for index, block in enumerate(live) if layer in block.window]
        heads = [block.head for block in live if layer in block.window]

        def visit(value: Tensor) -> Tensor | None:
            new = self.source.states[self.site, layer][:, self.pack.restored].to(value).transpose(0, 1)
            blocks = value.unflatten(0, (len(live), self.n_samples))
            index = torch.tensor(chosen)[:, None]
            if self.site == "attn_heads":
                parts = blocks.unflatten(-1, (self.n_heads, -1))
                which = torch.tensor([0 if head is None else head for head in heads])[:, None]
                # [block, variant, sample, d_head]: separated index arrays put their axes first
                parts[index, :, self.pack.starts, which] = new.unflatten(-1, (self.n_heads, -1)).permute(2, 0, 1, 3)[
                    which[:, 0]
                ]
            else:
                blocks[index, :, self.pack.starts] = new
            return value

        return visit

    def _sever(self, layer: int) -> Visit:
        """Keep the severed module's output at the restored position as in the base run, outside a block's window."""
        live = self._live(layer)
        restored_too = self.severed == ("attn_out" if self.site == "attn_heads" else self.site)
        free = [index for index, block in enumerate(live) if not (restored_too and layer in block.window)]

        def visit(value: Tensor) -> Tensor | None:
            if not free or self.severed is None:
                return None
            held = self.base.states[self.severed, layer][:, self.pack.restored].to(value)
            blocks = value.unflatten(0, (len(live), self.n_samples))
            if len(free) == len(live):
                blocks[:, :, self.pack.starts] = held
            else:
                blocks[torch.tensor(free)[:, None], :, self.pack.starts] = held.transpose(0, 1)
            return value

        return visit

    def _gather(self, value: Tensor) -> Tensor:
        """The positions that predict the answer; what the last layer writes elsewhere is never read."""
        return value[:, self.pack.ends]

    def _scatter(self, value: Tensor) -> Tensor:
        """Back to all packed positions."""
        out = value.new_zeros(value.shape[0], self.pack.size, value.shape[2])
        out[:, self.pack.ends] = value
        return out

    def _finish(self, hidden: Tensor) -> Tensor:
        """The positions that predict the answer, folded into rows of as many positions as the pack has.

        They are folded because GPT-2 gives its output the shape of its input.  They are copied because the head would
        compute a strided slice as many small products.
        """
        needed = hidden[:, self.pack.ends].flatten(0, 1)
        missing = -len(needed) % self.pack.size
        if missing:
            needed = torch.cat([needed, needed.new_zeros(missing, needed.shape[1])])
        return needed.unflatten(0, (-1, self.pack.size))


def _in_turn(visits: Sequence[Visit]) -> Visit:
    """A visit that makes several in order."""
    if len(visits) == 1:
        return visits[0]

    def visit(value: Tensor) -> Tensor:
        for each in visits:
            new = each(value)
            value = value if new is None else new
        return value

    return visit
