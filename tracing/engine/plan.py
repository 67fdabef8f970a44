"""Index arithmetic of a packed sweep: which rows run at which positions, in how many passes.  No model, no activations.

Restoring position t in layer l leaves positions before t and layers up to l as they were in the base run.  So one
restored position needs only the suffix t, t+1, ... of the prompt, with the base run's keys and values as its prefix,
and only the layers behind l.  A `Pack` puts the suffixes of several positions, of one prompt or of several, side by
side in one sequence; a `Block` is one restored layer (or window, or head) for all samples, whose rows join the batch
after the layer where they part from the base run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise

import torch
from torch import Tensor

PACK_LIMIT = 0.15
"""Positions of a pack, in units of d_model; above it, attention costs more than packing saves (measured on a CPU)."""
PASS_POSITIONS = 1024
"""Least rows x positions of a pass; below it, reading the weights again costs more than attention saves."""


@dataclass(frozen=True)
class Stretch:
    """The place of one prompt with its answer in a row of several prompts laid end to end."""

    prompt: int
    """Index of the prompt."""
    start: int
    length: int
    """Tokens of the prompt with its answer."""
    n_answer: int
    """Number of last positions that predict the answer."""


Variant = tuple[Stretch, int]
"""(prompt, restored position counted within that prompt)."""


def end_to_end(sizes: Iterable[tuple[int, int]]) -> tuple[Stretch, ...]:
    """Lay prompts of the given (tokens, answer tokens) end to end."""
    stretches: list[Stretch] = []
    start = 0
    for prompt, (length, n_answer) in enumerate(sizes):
        stretches.append(Stretch(prompt, start, length, n_answer))
        start += length
    return tuple(stretches)


@dataclass(frozen=True, eq=False)
class Pack:
    """Prompt suffixes side by side, one for each restored position ("variant")."""

    variants: tuple[Variant, ...]
    """Variants of one prompt are neighbours."""

    @cached_property
    def own(self) -> Tensor:
        """[packed], the position of each within its own prompt."""
        return torch.cat([torch.arange(pos, stretch.length) for stretch, pos in self.variants])

    @cached_property
    def source(self) -> Tensor:
        """[packed], the position of each in the row that holds all prompts."""
        return self.own + torch.tensor([stretch.start for stretch, _ in self.variants])[self._variant]

    @cached_property
    def restored(self) -> Tensor:
        """[variant], restored positions in the row that holds all prompts."""
        return torch.tensor([stretch.start + pos for stretch, pos in self.variants])

    @cached_property
    def starts(self) -> Tensor:
        """[variant], the packed position of each restored one."""
        return self._lengths.cumsum(0) - self._lengths

    @cached_property
    def ends(self) -> Tensor:
        """[end], the packed positions that predict an answer, variant by variant."""
        stops = self._lengths.cumsum(0).tolist()
        parts = [torch.arange(stop - each.n_answer, stop) for (each, _), stop in zip(self.variants, stops, strict=True)]
        return torch.cat(parts)

    def prompts(self) -> Iterator[tuple[Stretch, list[int], slice]]:
        """Each prompt with its restored positions and its part of `ends`, which is theirs [variant x answer]."""
        done = 0
        for stretch, group in groupby(self.variants, key=lambda variant: variant[0]):
            positions = [pos for _, pos in group]
            yield stretch, positions, slice(done, done + len(positions) * stretch.n_answer)
            done += len(positions) * stretch.n_answer

    @property
    def size(self) -> int:
        """Packed positions."""
        return len(self.own)

    @cached_property
    def prefix(self) -> slice | Tensor:
        """[key], positions in the row of all prompts that come before some variant and are read by it."""
        parts = [range(each.start, each.start + max(positions)) for each, positions, _ in self.prompts()]
        if len(parts) == 1:  # contiguous, so slicing copies nothing
            return slice(parts[0].start, parts[0].stop)
        return torch.tensor([pos for part in parts for pos in part], dtype=torch.long)

    @cached_property
    def n_prefix(self) -> int:
        """Positions in `prefix`."""
        return len(self._keys) - self.size

    @cached_property
    def distance(self) -> Tensor:
        """[packed, prefix + packed], prompt positions from the key back to the query."""
        return self.own[:, None] - self._keys

    @cached_property
    def allowed(self) -> Tensor:
        """[packed, prefix + packed], whether a query reads a key: its variant's own past, in prefix and suffix."""
        variant = self._variant
        prompt = torch.tensor([stretch.prompt for stretch, _ in self.variants])[variant]
        restored = torch.tensor([pos for _, pos in self.variants])[variant]
        owner = [stretch.prompt for stretch, positions, _ in self.prompts() for _ in range(max(positions))]
        before = torch.tensor(owner, dtype=torch.long) == prompt[:, None]
        before &= self._keys[: self.n_prefix] < restored[:, None]
        own = (variant[:, None] == variant) & (self.distance[:, self.n_prefix :] >= 0)
        return torch.cat([before, own], 1)

    @cached_property
    def _lengths(self) -> Tensor:
        """[variant], positions of each suffix."""
        return torch.tensor([stretch.length - pos for stretch, pos in self.variants])

    @cached_property
    def _variant(self) -> Tensor:
        """[packed], the variant of each position."""
        return torch.repeat_interleave(torch.arange(len(self.variants)), self._lengths)

    @cached_property
    def _keys(self) -> Tensor:
        """[prefix + packed], positions within their prompts."""
        return torch.cat([*(torch.arange(max(positions)) for _, positions, _ in self.prompts()), self.own])


def pack_limit(d_model: int) -> int:
    """Most positions of a pack, unless one suffix alone has more."""
    return int(PACK_LIMIT * d_model)


def packs(variants: Sequence[Variant], d_model: int, rows: int) -> Iterator[Pack]:
    """Divide the variants, in order, into as few packs as the limit allows.

    Args:
        rows: in all passes over a pack together; fewer rows allow more positions in a pack.
    """
    longest = max((stretch.length for stretch, _ in variants), default=0)
    limit = max(pack_limit(d_model), PASS_POSITIONS // rows, longest)
    group: list[Variant] = []
    size = 0
    for stretch, pos in variants:
        if group and size + stretch.length - pos > limit:
            yield Pack(tuple(group))
            group, size = [], 0
        group.append((stretch, pos))
        size += stretch.length - pos
    if group:
        yield Pack(tuple(group))


@dataclass(frozen=True)
class Cell:
    """One column of the map: the layers restored together, and the head."""

    column: int
    """Its index in the result's flattened [layer] or [layer, head] axes."""
    window: range
    head: int | None = None


@dataclass(frozen=True)
class Block:
    """Rows that run together: one for each sample, each with all variants of a pack."""

    joins: int
    """The rows join the batch after this layer; -1 for the first layer's input."""
    window: range
    """Layers after `joins` whose output is overwritten at the restored position."""
    columns: tuple[int, ...] = field(compare=False)
    """The map's columns that the rows fill; several if clipping makes windows equal."""
    head: int | None = None
    origin: int | None = None
    """Index of the block from which these rows are copied; None if they start as the base run."""


def lay_out(cells: Sequence[Cell], *, of_block_outputs: bool) -> list[Block]:
    """The blocks of some cells in order of joining.

    A window of modules joins at the input of its first layer.  A window of block outputs joins after its first layer,
    with that output already restored.  Windows that begin at the same layer share rows until the shorter one ends; the
    longer one goes on from a copy of the shared state.

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
        """Number of restored runs: cells x positions x samples."""
        return len(self.cells) * len(self.pack.variants) * len(self.samples)


def chunks(pack: Pack, cells: Sequence[Cell], samples: range, rows: int) -> Iterator[Chunk]:
    """Split a pack's work into even passes of at most `rows` rows, by sample first, then by cell.

    Args:
        cells: in order of their windows, so that those of a pass have layers in common.
    """
    per_pass = max(1, rows // max(1, len(cells)))
    for part in split(samples, per_pass):
        for share in split(range(len(cells)), max(1, rows // len(part))):
            yield Chunk(pack, tuple(cells[share.start : share.stop]), part)


def split(items: range, size: int) -> Iterator[range]:
    """Consecutive parts of at most `size` items, whose lengths differ by at most one."""
    count = -(-len(items) // size)
    edges = [items.start + len(items) * part // count for part in range(count + 1)] if count else []
    yield from (range(start, stop) for start, stop in pairwise(edges))
