"""Operations: what an edit does to a model, as plain data.  There are six kinds.

    WeightDelta   W + rows cols, a low-rank change of one weight    ROME, MEMIT, EMMET, AlphaEdit, KN, LoRA, KE, MEND
    DenseDelta    W + change                                        FT, FT-L, FT-M
    CodebookOp    keys with values that a layer writes instead      GRACE
    SideOp        a second weight for the rows that need it         WISE
    RouteOp       prompts that another model answers                SERAC
    PromptOp      words put before every prompt                     IKE, ICE

`editing.applied.view.apply_edits` builds a view of a model with the operations.  They nest in one order,
Prompt(Route(Weights)); codebooks and side weights act on top of the changed weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from facts.records import as_tuples

Where = Literal["last", "prompt", "all"]
"""Positions at which a codebook writes: the prompt's last token, those before it, or both."""


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """A low-rank change of one weight, in the orientation y = W x (also where the module stores W transposed).

    Raises:
        ValueError: if the two factors do not belong together, or hold a number that is not finite.
    """

    name: str
    """Parameter name in the module, such as "transformer.h.4.mlp.c_proj.weight"."""
    rows: torch.Tensor
    """[d_out, rank]"""
    cols: torch.Tensor
    """[rank, d_in]"""

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.cols.ndim != 2 or self.rows.shape[1] != self.cols.shape[0]:
            raise ValueError(
                f"the factors of {self.name!r} have shapes {tuple(self.rows.shape)} and {tuple(self.cols.shape)}; "
                "expected [d_out, rank] and [rank, d_in]"
            )
        _check_finite(self.name, self.rows, self.cols)

    @property
    def shape(self) -> tuple[int, ...]:
        """(d_out, d_in) of the dense change, without computing it."""
        return len(self.rows), self.cols.shape[1]

    def matrix(self) -> torch.Tensor:
        """The dense change, [d_out, d_in].  Small factors can make a huge matrix: check `shape` first."""
        return self.rows @ self.cols

    @property
    def norm(self) -> float:
        """Frobenius norm, from the factors alone."""
        rows, cols = self.rows.double(), self.cols.double()
        return float(((rows.T @ rows) * (cols @ cols.T)).sum().clamp_min(0).sqrt())

    @property
    def n_changed(self) -> int:
        """Number of entries of the weight that it changes."""
        return self.rows.shape[0] * self.cols.shape[1]


@dataclass(frozen=True, eq=False)
class DenseDelta:
    """A change of one weight or bias, entry by entry; a weight in the orientation y = W x.

    Raises:
        ValueError: if it has more than two axes, or holds a number that is not finite.
    """

    name: str
    change: torch.Tensor
    """[d_out, d_in], or [d_out] for a bias."""

    def __post_init__(self) -> None:
        if self.change.ndim not in (1, 2):
            raise ValueError(
                f"the change of {self.name!r} has shape {tuple(self.change.shape)}; expected [d_out, d_in] or [d_out]"
            )
        _check_finite(self.name, self.change)

    @property
    def shape(self) -> tuple[int, ...]:
        """(d_out, d_in), or (d_out,) for a bias."""
        return tuple(self.change.shape)

    def matrix(self) -> torch.Tensor:
        """The change itself."""
        return self.change

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return float(self.change.double().norm())

    @property
    def n_changed(self) -> int:
        """Number of entries of the weight that it changes."""
        return self.change.numel()


@dataclass(frozen=True, eq=False)
class CodebookOp:
    """GRACE's codebook entries at one layer, one per request; `editing.applied.codebook.fold` joins all active ones.

    If the layer's input at the last prompt token is within the radius of an entry's key, the layer writes that entry's
    value.  Radii are not stored but computed from the entries in their order, so that removing an entry restores
    the others exactly.

    Raises:
        ValueError: if keys, values and labels do not belong together, or a number is not usable.
    """

    module: str
    """Path of the layer, such as "transformer.h.3.mlp.c_proj"."""
    keys: torch.Tensor
    """[n, d_in], the layer's input at the last prompt token."""
    values: torch.Tensor
    """[n, d_out], what the layer writes there."""
    labels: tuple[tuple[int, ...], ...]
    """Token ids of each entry's answer; entries with one answer may share a ball."""
    radius: float
    """Of a new entry, before its neighbours change it; Euclidean, in units of the layer's input."""
    where: Where = "last"

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.keys.ndim != 2 or self.values.ndim != 2 or not n == len(self.keys) == len(self.values) > 0:
            raise ValueError(
                f"the codebook at {self.module!r} has keys {tuple(self.keys.shape)}, values "
                f"{tuple(self.values.shape)} and {n} labels; expected [n, d_in], [n, d_out] and n, with n >= 1"
            )
        _check_number("radius", self.radius)
        _check_choice("where", self.where, get_args(Where))
        _check_finite(self.module, self.keys, self.values)


@dataclass(frozen=True, eq=False)
class SideOp:
    """What one edit adds to a side weight W' = W + sum of changes, and when rows take it (WISE).

    A row takes the side weight where the mean over its prompt of |(W' - W) x| exceeds `ratio` x the smallest
    `activation` of the edits in that shard.

    Raises:
        ValueError: if index and change do not belong together or leave the weight, or a number is not usable.
    """

    name: str
    """Parameter name of the layer's weight."""
    shape: tuple[int, int]
    """(d_out, d_in) of the weight, in the orientation y = W x."""
    index: torch.Tensor
    """[n] int64, positions in the flattened weight that this edit's shard may change."""
    change: torch.Tensor
    """[n], what this edit adds there."""
    shard: int
    """Edits of one shard share one side weight."""
    activation: float
    """|(W' - W) x| of the edited prompt when the edit was made; in units of the layer's output."""
    ratio: float
    density: float = 0.0
    """Share of every shard's entries kept when shards are merged into one (TIES); 0: never merged, the most active
    shard answers."""

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.change.shape != self.index.shape or self.index.dtype != torch.int64:
            raise ValueError(
                f"the side weight of {self.name!r} has index {tuple(self.index.shape)} {self.index.dtype} and change "
                f"{tuple(self.change.shape)}; expected [n] int64 and [n]"
            )
        size = self.shape[0] * self.shape[1]
        if len(self.index) and not 0 <= int(self.index.min()) <= int(self.index.max()) < size:
            raise ValueError(f"the side weight of {self.name!r} changes an entry outside its {size} entries")
        for name in ("activation", "ratio", "density"):
            _check_number(name, getattr(self, name))
        _check_finite(self.name, self.change)


@dataclass(frozen=True, eq=False)
class RouteOp:
    """Entries of a memory of edits: prompts in the scope of one are answered by a counterfactual model (SERAC).

    What decides the scope and what answers belong to the method: see `editing.applied.view.Router`.

    Raises:
        ValueError: if keys, contexts and subjects do not belong together, or a number is not usable.
    """

    keys: torch.Tensor
    """[n, d_key], what the scope classifier compares prompts with."""
    contexts: tuple[tuple[int, ...], ...]
    """Token ids put before the prompt when the counterfactual model answers, one row per entry."""
    subjects: tuple[str, ...]
    """Each entry's subject, for classifiers that look for it by its letters."""
    threshold: float
    """A prompt is in scope where its best score exceeds this; scores lie in [0, 1]."""
    editor: str
    """sha256 of the trained classifier and counterfactual model."""

    def __post_init__(self) -> None:
        n = len(self.contexts)
        if self.keys.ndim != 2 or not n == len(self.keys) == len(self.subjects) > 0:
            raise ValueError(
                f"the memory has keys {tuple(self.keys.shape)}, {n} contexts and {len(self.subjects)} subjects; "
                "expected [n, d_key], n and n, with n >= 1"
            )
        _check_number("threshold", self.threshold)
        _check_finite("the memory", self.keys)


@dataclass(frozen=True, eq=False)
class PromptOp:
    """Words put before every prompt: demonstrations, a new fact, and the opening of the question.

    Several of them share one prefix: all demonstrations, then all facts, then the last one's opening.

    Raises:
        ValueError: if there is no fact, or `reserve` is not positive.
    """

    demonstrations: tuple[tuple[int, ...], ...]
    """Token ids of each demonstration, the one nearest to the edit last."""
    fact: tuple[int, ...]
    """Token ids that state the new fact."""
    opening: tuple[int, ...]
    """Token ids between the facts and the prompt."""
    reserve: int
    """Tokens kept free for prompt and answer; demonstrations are dropped from the front until they fit."""

    def __post_init__(self) -> None:
        if not self.fact:
            raise ValueError("the new fact has no tokens; write it in words the tokenizer knows")
        if self.reserve < 1:
            raise ValueError(f"reserve is {self.reserve}; at least 1 token must be free for the prompt")


Op = WeightDelta | DenseDelta | CodebookOp | SideOp | RouteOp | PromptOp
Delta = WeightDelta | DenseDelta
"""Operations that change a weight, and so can be merged into it."""
OP_TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Op)}


def tensors_of(op: Op) -> dict[str, torch.Tensor]:
    """The fields that are tensors, by name."""
    values = {knob.name: getattr(op, knob.name) for knob in fields(op)}
    return {name: value.detach().cpu().contiguous() for name, value in values.items() if torch.is_tensor(value)}


def plain_of(op: Op) -> dict[str, Any]:
    """The other fields, and the kind of operation; ready for JSON."""
    values = {knob.name: getattr(op, knob.name) for knob in fields(op)}
    return {"op": type(op).__name__} | {name: value for name, value in values.items() if not torch.is_tensor(value)}


def rebuilt(plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Op:
    """The operation with these fields.

    Raises:
        ValueError: if the kind is unknown or the fields are not usable.
        TypeError: if a field is missing or unknown.
    """
    kind = plain.get("op")
    if kind not in OP_TYPES:
        raise ValueError(f"it holds an operation {kind!r}; this version knows {', '.join(OP_TYPES)}")
    values = {name: as_tuples(value) for name, value in plain.items() if name != "op"}
    op: Op = OP_TYPES[kind](**values, **tensors)
    return op


def op_digest(op: Op) -> str:
    """sha256 over everything the operation does."""
    digest = hashlib.sha256(json.dumps(plain_of(op), sort_keys=True).encode())
    for name, tensor in sorted(tensors_of(op).items()):
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_finite(name: str, *tensors: torch.Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"the change of {name!r} holds a number that is not finite; the edit failed")


def _check_number(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 <= value < float("inf")):
        raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(choices)}")
