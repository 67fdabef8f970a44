"""An edit as data: what changes and by how much.

Its operations (`editing.ops`) say what it does to a model.  `editing.applied.view.apply_edits` makes a view of the
model with the edit; the model itself is never written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from editing.inline import edit_bundle
from editing.ops import CodebookOp, Delta, DenseDelta, Op, SideOp, WeightDelta, op_digest, tensors_of
from facts import EditRequest


@dataclass(frozen=True)
class Diagnostic:
    """One number that helps to judge an edit."""

    name: str
    value: float
    unit: str = ""
    help: str = ""
    warning: str = ""
    """A sentence that warns of an unusual value; else empty."""


@dataclass(frozen=True)
class LossStep:
    """The terms of the objective before one optimisation step, already multiplied by their factors."""

    target_nll: float
    """Mean negative log probability of the target's tokens, in nats."""
    kl: float
    decay: float

    @property
    def total(self) -> float:
        """The objective: the sum of the three."""
        return self.target_nll + self.kl + self.decay


@dataclass(frozen=True, eq=False)
class Edit:
    """The result of a method: operations, diagnostics, and the revision of the model they are for."""

    method: str
    requests: tuple[EditRequest, ...]
    config: Any
    """The method's frozen config dataclass."""
    ops: tuple[Op, ...]
    """What the edit does to a model, in the order the method made them."""
    model_revision: str
    """Revision of the model the edit is for: the base, or the view it was computed on."""
    diagnostics: tuple[Diagnostic, ...] = ()
    losses: tuple[LossStep, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    keys: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Weight name -> [n, d_in]: the requests' keys at that weight, for methods that protect earlier edits."""
    parents: tuple[str, ...] = ()
    """Digests of the edits that were in the model when this one was computed, oldest first."""

    def __repr__(self) -> str:
        """In one line: a notebook would print every number of the operations."""
        first = next((f"{request.fact.prompt} … {request.target_new}" for request in self.requests), "")
        return f"<Edit {self.digest[:12]}: {self.method}, {first}, requests {len(self.requests)}, ops {len(self.ops)}>"

    @property
    def weights(self) -> tuple[Delta, ...]:
        """The operations that change a weight, which can be merged into it."""
        return tuple(op for op in self.ops if isinstance(op, WeightDelta | DenseDelta))

    @property
    def loss_curve(self) -> tuple[float, ...]:
        """The objective before each optimisation step."""
        return tuple(step.total for step in self.losses)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the diagnostics."""
        return tuple(diagnostic.warning for diagnostic in self.diagnostics if diagnostic.warning)

    @property
    def parameters_changed(self) -> int:
        """Number of entries of all weights the edit changes, plus those a codebook or a side weight adds."""
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

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """How a notebook shows the edit: what it rewrites, its diagnostics, its loss by step."""
        lines = [f"{r.fact.prompt} … {r.fact.target_true or '?'} → {r.target_new}" for r in self.requests]
        more = [f"and {len(lines) - 3} others"] if len(lines) > 3 else []
        layer = getattr(self.config, "layer", None)
        rows = [("rewrites", line) for line in [*lines[:3], *more]]
        rows += [("layer", str(layer))] if layer is not None else []
        rows += [("changes", ", ".join(dict.fromkeys(op.name for op in self.weights)) or "no weight")]
        rows += [(d.name, f"{d.value:.4g} {d.unit}".strip()) for d in self.diagnostics]
        rows += [("note", warning) for warning in self.warnings]
        return edit_bundle(f"Edit by {self.method}", rows, self.loss_curve)

    @cached_property
    def content(self) -> str:
        """sha256 over the operations alone."""
        return hashlib.sha256(" ".join(op_digest(op) for op in self.ops).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 over the operations and the revision the edit is for."""
        return hashlib.sha256(f"{self.model_revision} {self.content}".encode()).hexdigest()
