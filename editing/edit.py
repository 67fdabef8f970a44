"""An edit as data: what changes and by how much.  Nothing is written until it is applied, and then to a view.

What it does stands in its operations (`editing.ops`); `editing.applied.view.apply_edits` makes the view of a model that
has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from editing.ops import CodebookOp, Delta, DenseDelta, Op, SideOp, WeightDelta, op_digest, tensors_of
from facts import EditRequest


@dataclass(frozen=True)
class Diagnostic:
    """One number that tells whether an edit went well."""

    name: str
    value: float
    unit: str = ""
    help: str = ""
    warning: str = ""
    """A sentence for the reader when the number is out of the ordinary; else empty."""


@dataclass(frozen=True)
class LossStep:
    """The terms of the objective before one optimisation step, already multiplied by their factors."""

    target_nll: float
    """Mean negative log probability of the target's tokens, in nats."""
    kl: float
    decay: float

    @property
    def total(self) -> float:
        """What the optimiser sees."""
        return self.target_nll + self.kl + self.decay


@dataclass(frozen=True, eq=False)
class Edit:
    """What a method computed: the changes, the numbers behind them, and what they may be applied to."""

    method: str
    requests: tuple[EditRequest, ...]
    config: Any
    """The method's frozen config dataclass."""
    ops: tuple[Op, ...]
    """What it does to a model, in the order it was made."""
    model_revision: str
    """Revision of the model it is for: the base, or the view it was computed on."""
    diagnostics: tuple[Diagnostic, ...] = ()
    losses: tuple[LossStep, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    keys: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Weight name -> [n, d_in]: keys of the requests there, for methods that must not disturb earlier edits."""
    parents: tuple[str, ...] = ()
    """Digests of the edits that were in the model when this one was computed, in their order."""

    @property
    def weights(self) -> tuple[Delta, ...]:
        """Every operation that changes a weight, and so can be merged into it."""
        return tuple(op for op in self.ops if isinstance(op, WeightDelta | DenseDelta))

    @property
    def loss_curve(self) -> tuple[float, ...]:
        """The objective before each optimisation step."""
        return tuple(step.total for step in self.losses)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader should be told, a sentence each."""
        return tuple(diagnostic.warning for diagnostic in self.diagnostics if diagnostic.warning)

    @property
    def parameters_changed(self) -> int:
        """Entries of all weights the edit touches; what a codebook or a side weight adds counts as well."""
        sizes = {op.name: op.n_changed for op in self.weights}
        added = sum(op.keys.numel() + op.values.numel() for op in self.ops if isinstance(op, CodebookOp))
        return sum(sizes.values()) + added + sum(len(op.index) for op in self.ops if isinstance(op, SideOp))

    @property
    def n_bytes(self) -> int:
        """Memory of the operations' tensors."""
        return sum(tensor.nbytes for op in self.ops for tensor in tensors_of(op).values())

    def diagnostic(self, name: str) -> Diagnostic:
        """The diagnostic of that name.

        Raises:
            KeyError: if there is none.
        """
        for diagnostic in self.diagnostics:
            if diagnostic.name == name:
                return diagnostic
        raise KeyError(f"no diagnostic {name!r}; there are {', '.join(d.name for d in self.diagnostics)}")

    @cached_property
    def content(self) -> str:
        """sha256 over the operations alone."""
        return hashlib.sha256(" ".join(op_digest(op) for op in self.ops).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 over what the edit does and the revision it is for."""
        return hashlib.sha256(f"{self.model_revision} {self.content}".encode()).hexdigest()
