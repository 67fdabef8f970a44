"""A codebook in a layer: for an input near a key the layer writes that key's value (GRACE).

Hartvigsen et al. 2023, section 3 and algorithm 1 (arXiv:2211.11031).  With d the distance of a new key to the nearest
one j, and radius r of a new entry:

    d = 0: the same prompt again               a new entry; j is left out, as if it had never been made
    no key yet, or d > radius_j + r            a new entry of radius r
    else, another answer                       a new entry; both get d / 2, j a hair less
    else (same answer), d > radius_j           radius_j = d, and the entry's value replaces j's
    else                                       the entry's value replaces j's

The first rule is ours: in the paper both radii become 0 there, and the older entry goes on answering.

`fold` builds the book from the entries of all active edits, in their order, whenever a view is made.  Radii are not
stored, so removing an edit leaves no trace.  A label is the tuple of the answer's tokens.  (Two ports of GRACE compare
labels in ways that never match, and do not restore radii on removal.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editing.ops import CodebookOp, Where
from models.calls import current_call

SAME = 1e-5
"""Two keys closer than this share of their norm belong to one prompt; the rest is rounding."""
GAP = 1e-5
"""The older of two conflicting entries gets half the distance minus this, as in the authors' code."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """The folded entries; index i is one entry in every field."""

    keys: torch.Tensor
    """[n, d_in]"""
    values: torch.Tensor
    """[n, d_out]"""
    radii: torch.Tensor
    """[n]"""
    labels: tuple[tuple[int, ...], ...]
    where: Where

    def hits(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest key of each query [batch, d_in], and whether the query is in its radius: two tensors [batch]."""
        distance, nearest = distances(queries, self.keys).min(dim=1)
        return nearest, distance <= self.radii[nearest]


def distances(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Euclidean, [batch, d], [n, d] -> [batch, n]; by differences, so that equal vectors are at exactly 0."""
    return (queries.double()[:, None] - keys.double()[None]).norm(dim=-1)


def fold(ops: Sequence[CodebookOp]) -> Codebook:
    """The codebook of the active edits at one layer, oldest first; `where` is the newest edit's."""
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    radii: list[float] = []
    labels: list[tuple[int, ...]] = []
    for key, value, label, radius in _newest(ops):
        distance, nearest = float("inf"), -1
        if keys:
            smallest = distances(key[None], torch.stack(keys))[0].min(dim=0)
            distance, nearest = float(smallest.values), int(smallest.indices)
        if distance > (radii[nearest] if keys else 0.0) + radius or labels[nearest] != label:
            if keys and distance <= radii[nearest] + radius:  # a conflict: both get half the distance
                radius, radii[nearest] = distance / 2, max(0.0, distance / 2 - GAP)
            keys.append(key)
            values.append(value)
            radii.append(radius)
            labels.append(label)
        else:
            radii[nearest] = max(radii[nearest], distance)
            values[nearest] = value
    return Codebook(
        torch.stack(keys),
        torch.stack(values),
        torch.tensor(radii, dtype=torch.float64),
        tuple(labels),
        ops[-1].where,
    )


def _newest(ops: Sequence[CodebookOp]) -> list[tuple[torch.Tensor, torch.Tensor, tuple[int, ...], float]]:
    """(key, value, label, radius) of every entry in order, without those whose prompt was edited again later."""
    entries = [
        (key, value, label, op.radius)
        for op in ops
        for key, value, label in zip(op.keys, op.values, op.labels, strict=True)
    ]
    keys = torch.stack([key for key, *_ in entries])
    newest = []
    for index, entry in enumerate(entries):
        later = distances(entry[0][None], keys[index + 1 :])[0]
        if not bool((later <= SAME * entry[0].double().norm()).any()):
            newest.append(entry)
    return newest


class CodebookRewrite:
    """Replaces the layer's output near a key; a `models.views.Rewrite`.  Decides once, when the prompt is read."""

    def __init__(self, book: Codebook) -> None:
        self.book = book

    def __call__(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The layer's output, with values in rows whose last prompt token is within a radius."""
        call = current_call()
        if call is not None and not call.reads_prompt:
            return output  # the values written at the prompt stay in the attention's cache
        rows, ends = rows_and_ends(inputs)
        nearest, inside = self.book.hits(rows[torch.arange(len(rows)), ends - 1])
        if not inside.any():
            return output
        positions = torch.arange(rows.shape[1], device=rows.device)[None]
        last = (ends - 1)[:, None]
        chosen = {"last": positions == last, "prompt": positions < last, "all": positions <= last}[self.book.where]
        values = self.book.values.to(output)[nearest][:, None]
        shaped = output.reshape(*rows.shape[:2], output.shape[-1])
        return torch.where((chosen & inside[:, None])[..., None], values, shaped).reshape(output.shape)


def rows_and_ends(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's input as [batch, pos, d_in], and [batch] tokens of each prompt.

    Outside a call of the model, as when a module is traced, the whole row is the prompt.

    Raises:
        ValueError: if rows and positions share an axis (OPT) and no call tells how many rows there are.
    """
    call = current_call()
    if inputs.ndim == 2:
        if call is None:
            raise ValueError(
                "this family folds rows and positions into one axis, so a module with a memory cannot be run alone; "
                "use `logits` or `generate`"
            )
        inputs = inputs.reshape(len(call.prompt_lengths), -1, inputs.shape[-1])
    if call is None:
        return inputs, torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
    return inputs, call.prompt_lengths
