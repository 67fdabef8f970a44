"""An edit as data: which weights change and by how much.  Nothing is written until it is applied, and then to a view.

`apply_edits` adds the low-rank changes to copies of the named weights and hands them to `LanguageModel.view`, which
shares every other tensor with the base.  An edit is removed by building the view without it, from the same base:
(W + delta) - delta is never computed, because in floating point it is not W.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from facts import EditRequest
from models import LanguageModel, as_out_in

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
Cancelled = Callable[[], bool]
"""Asked between steps; true once nobody wants the result any more."""


class EditCancelled(Exception):  # noqa: N818 - a wish of the caller, not an error
    """The caller asked to stop; the model is as it was."""


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """A low-rank change of one weight, in the orientation y = W x whatever the module stores.

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
        if not (bool(self.rows.isfinite().all()) and bool(self.cols.isfinite().all())):
            raise ValueError(f"the change of {self.name!r} holds a number that is not finite; the edit failed")

    def matrix(self) -> torch.Tensor:
        """The dense change, [d_out, d_in]."""
        return self.rows @ self.cols

    @property
    def norm(self) -> float:
        """Frobenius norm, from the factors alone."""
        rows, cols = self.rows.double(), self.cols.double()
        return float(((rows.T @ rows) * (cols @ cols.T)).sum().clamp_min(0).sqrt())


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
    deltas: tuple[WeightDelta, ...]
    model_revision: str
    """Digest of the weights the edit was computed from."""
    diagnostics: tuple[Diagnostic, ...] = ()
    losses: tuple[LossStep, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage."""

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
        """Entries of all weights the edit touches."""
        return sum(delta.rows.shape[0] * delta.cols.shape[1] for delta in self.deltas)

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
    def digest(self) -> str:
        """sha256 over what the edit does: base revision, names and factors of the changed weights."""
        digest = hashlib.sha256(self.model_revision.encode())
        for delta in self.deltas:
            for part in (delta.rows, delta.cols):
                digest.update(f"|{delta.name}|{part.dtype}|{tuple(part.shape)}|".encode())
                digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the edit as one safetensors file with JSON metadata in its header."""
        from editing.files import save_edit  # files.py reads configs through the registry, which imports this module

        save_edit(self, Path(path))

    @staticmethod
    def load(path: Path | str) -> Edit:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a saved edit.
        """
        from editing.files import load_edit  # see save

        return load_edit(Path(path))


def apply_edits(model: LanguageModel, edits: Sequence[Edit], *, force: bool = False) -> LanguageModel:
    """A view of `model` with all edits in it; `model` itself is not touched.

    Removing an edit is leaving it out of `edits`: the view is always built from the base, so that is exact.

    Args:
        edits: applied to the same base; changes of one weight add up, in a fixed order that is not the list's.
        force: also apply an edit that was computed from other weights.

    Raises:
        ValueError: if an edit belongs to other weights, names an unknown weight, or has another shape.
    """
    for edit in edits:
        if edit.model_revision != model.revision and not force:
            raise ValueError(
                f"the edit was computed from weights {edit.model_revision[:12]}, but model {model.name!r} has "
                f"{model.revision[:12]}; load the model it was made for, or force it"
            )
    # Floating-point sums depend on their order; sorting makes the view a function of the set of edits.
    ordered = sorted(edits, key=lambda edit: edit.digest)
    changes: dict[str, torch.Tensor] = {}
    for delta in (delta for edit in ordered for delta in edit.deltas):
        dense = delta.matrix().to(device=model.device, dtype=torch.float64)
        changes[delta.name] = changes[delta.name] + dense if delta.name in changes else dense
    return model.view({name: _changed(model, name, change) for name, change in changes.items()})


def _changed(model: LanguageModel, name: str, change: torch.Tensor) -> torch.Tensor:
    """The weight plus the change [d_out, d_in], in the orientation and dtype in which the module stores it."""
    stored = model.weight(name)
    module = model.module.get_submodule(name.rpartition(".")[0])
    oriented = as_out_in(module, stored)
    if change.shape != oriented.shape:
        raise ValueError(
            f"the edit changes {name!r} by a matrix of shape {list(change.shape)}, but the model has "
            f"{list(oriented.shape)} there; it was made for another model"
        )
    return as_out_in(module, oriented.double() + change).to(stored.dtype)
