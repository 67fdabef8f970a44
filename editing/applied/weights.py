"""Changes of a weight, added up and put into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editing.ops import Delta, WeightDelta
from models import LanguageModel, as_out_in


def summed(ops: Sequence[Delta], device: torch.device) -> torch.Tensor:
    """The changes of one weight together, [d_out, d_in] float64; many of low rank are one product, since a sequence
    of edits has hundreds."""
    low = [op for op in ops if isinstance(op, WeightDelta)]
    if len({op.shape for op in low}) == 1:
        rows, cols = torch.cat([op.rows for op in low], dim=1), torch.cat([op.cols for op in low])
        parts = [rows.to(device).double() @ cols.to(device).double()]
        parts += [op.matrix().to(device).double() for op in ops if not isinstance(op, WeightDelta)]
    else:
        parts = [op.matrix().to(device).double() for op in ops]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def changed(model: LanguageModel, name: str, change: torch.Tensor) -> torch.Tensor:
    """The weight plus the change [d_out, d_in], in the orientation and dtype in which the module stores it."""
    stored = model.weight(name)
    module = model.module.get_submodule(name.rpartition(".")[0])
    oriented = as_out_in(module, stored) if stored.ndim == 2 else stored
    summed = (oriented.double() + change).to(stored.dtype)
    return as_out_in(module, summed) if stored.ndim == 2 else summed
