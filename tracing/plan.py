"""The index arithmetic of a packed sweep: what runs, where, and in how many passes.  No model and no activations here.

Restoring position t in layer l leaves positions before t and layers up to l as they were in the base run.  So one
restored position needs only the suffix t, t+1, ... of the prompt, with the base run's keys and values as its prefix,
and only the layers behind l.  A `Pack` puts the suffixes of several positions side by side in one sequence; a `Block`
is one restored layer (or window, or head) for all samples, whose rows join the batch after the layer where they part
from the base run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

PACK_LIMIT = 0.15
"""Positions of a pack, in units of d_model: beyond, its attention costs more than it saves (measured on a CPU)."""


@dataclass(frozen=True, eq=False)
class Pack:
    """Suffixes of one prompt, one for each restored position ("variant"), side by side."""

    positions: tuple[int, ...]
    """Restored prompt positions, one a variant."""
    length: int
    """Tokens of the prompt with its answer."""
    n_answer: int
    """The last so many positions predict the answer."""

    @cached_property
    def source(self) -> Tensor:
        """[packed], the prompt position of each packed one."""
        return torch.cat([torch.arange(start, self.length) for start in self.positions])

    @cached_property
    def starts(self) -> Tensor:
        """[variant], the packed position of each restored one."""
        lengths = torch.tensor([0, *(self.length - start for start in self.positions[:-1])])
        return lengths.cumsum(0)

    @cached_property
    def ends(self) -> Tensor:
        """[variant, answer], the packed positions that predict the answer."""
        behind = self.starts + self.length - torch.tensor(self.positions)
        return behind[:, None] - self.n_answer + torch.arange(self.n_answer)

    @property
    def size(self) -> int:
        """Packed positions."""
        return len(self.source)

    @property
    def prefix(self) -> int:
        """How many of the base run's first positions are read by some variant."""
        return max(self.positions)

    @cached_property
    def distance(self) -> Tensor:
        """[packed, prefix + packed], prompt positions from the key back to the query."""
        keys = torch.cat([torch.arange(self.prefix), self.source])
        return self.source[:, None] - keys

    @cached_property
    def allowed(self) -> Tensor:
        """[packed, prefix + packed], whether a query reads a key: its variant's own past, in prefix and suffix."""
        lengths = self.length - torch.tensor(self.positions)
        variant = torch.repeat_interleave(torch.arange(len(self.positions)), lengths)
        restored = torch.tensor(self.positions)[variant]
        before = torch.arange(self.prefix) < restored[:, None]
        own = (variant[:, None] == variant) & (self.distance[:, self.prefix :] >= 0)
        return torch.cat([before, own], 1)


def packs(positions: Sequence[int], length: int, n_answer: int, d_model: int) -> Iterator[Pack]:
    """As few packs as the limit allows, in order of position."""
    limit = max(length, int(PACK_LIMIT * d_model))
    group: list[int] = []
    size = 0
    for position in sorted(positions):
        if group and size + length - position > limit:
            yield Pack(tuple(group), length, n_answer)
            group, size = [], 0
        group.append(position)
        size += length - position
    if group:
        yield Pack(tuple(group), length, n_answer)


@dataclass(frozen=True)
class Cell:
    """One column of the map: the layers restored together, and which head of them."""

    column: int
    """Where its values go in the result's flattened [layer] or [layer, head] axes."""
    window: range
    head: int | None = None


@dataclass(frozen=True)
class Block:
    """Rows that run together: one for each sample, each of them all variants of a pack."""

    joins: int
    """The layer behind which the rows join the batch; -1 for the first layer's input."""
    window: range
    """Layers behind `joins` whose output is overwritten at the restored position."""
    columns: tuple[int, ...] = field(compare=False)
    """The map's columns that the rows fill; several where clipping makes windows equal."""
    head: int | None = None
    origin: int | None = None
    """The block, by its index, whose rows these start as; without one they start as the base run."""


def lay_out(cells: Sequence[Cell], *, of_block_outputs: bool) -> list[Block]:
    """The blocks of some cells in order of joining.

    A window of modules joins at the input of its first layer.  A window of block outputs joins behind its first layer,
    with that output already restored.  Windows that begin at the same layer are one chain of rows until the shorter
    ends: there it forks off, with the state that it has in common.

    Args:
        of_block_outputs: whether block outputs are restored, or else what a module writes.
    """
    columns: dict[tuple[int, int, int | None], list[int]] = {}
    for cell in cells:
        columns.setdefault((cell.window.start, cell.window.stop, cell.head), []).append(cell.column)
    longest: dict[tuple[int, int | None], int] = {}
    for start, stop, head in columns:
        longest[start, head] = max(stop, longest.get((start, head), 0))
    joining: list[tuple[int, bool, int, int, int | None]] = []
    for start, stop, head in columns:
        entry = start if of_block_outputs else start - 1
        fork = stop < longest[start, head] and stop - 1 > entry
        joining.append((stop - 1 if fork else entry, fork, start, stop, head))
    joining.sort(key=lambda item: (item[0], item[1], item[2], item[3], -1 if item[4] is None else item[4]))
    index = {(start, stop, head): i for i, (_, _, start, stop, head) in enumerate(joining)}
    blocks = []
    for joins, fork, start, stop, head in joining:
        origin = index[start, longest[start, head], head] if fork else None
        window = range(0) if fork else range(joins + 1, stop)
        blocks.append(Block(joins, window, tuple(columns[start, stop, head]), head, origin))
    return blocks


@dataclass(frozen=True, eq=False)
class Chunk:
    """One pass: some blocks of one pack for some samples."""

    pack: Pack
    cells: tuple[Cell, ...]
    samples: range

    @property
    def n_runs(self) -> int:
        """Restored runs it stands for: cells x positions x samples."""
        return len(self.cells) * len(self.pack.positions) * len(self.samples)


def chunks(pack: Pack, cells: Sequence[Cell], samples: range, rows: int) -> Iterator[Chunk]:
    """A pack's work in passes of at most `rows` rows, as even as they go: first split by sample, then by cell.

    Args:
        cells: in order of their windows, so that those of a pass have layers in common.
    """
    per_pass = max(1, rows // max(1, len(cells)))
    for part in split(samples, per_pass):
        for share in split(range(len(cells)), max(1, rows // len(part))):
            yield Chunk(pack, tuple(cells[share.start : share.stop]), part)


def split(items: range, size: int) -> Iterator[range]:
    """Consecutive parts of at most `size`, none of which is more than one longer than another."""
    count = -(-len(items) // size)
    edges = [items.start + len(items) * part // count for part in range(count + 1)] if count else []
    yield from (range(start, stop) for start, stop in pairwise(edges))


def position_layers(blocks: Sequence[Block], pack: Pack, n_samples: int, n_layers: int) -> int:
    """Positions x layers that the rows run through: what a pass costs, in block evaluations of one position."""
    return sum(n_layers - 1 - block.joins for block in blocks) * pack.size * n_samples
