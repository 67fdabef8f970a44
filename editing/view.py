"""The view of a model that has some edits: a model like any other, which shares every tensor the edits leave alone.

An edit is removed by building the view without it, from the same base: (W + delta) - delta is never computed, because
in floating point it is not W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editing.edit import Edit
from models import LanguageModel, as_out_in


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
    ordered = sorted(edits, key=lambda edit: edit.content)
    changes: dict[str, torch.Tensor] = {}
    for op in (op for edit in ordered for op in edit.weights):
        dense = op.matrix().to(device=model.device, dtype=torch.float64)
        changes[op.name] = changes[op.name] + dense if op.name in changes else dense
    return model.view({name: _changed(model, name, change) for name, change in changes.items()})


def _changed(model: LanguageModel, name: str, change: torch.Tensor) -> torch.Tensor:
    """The weight plus the change [d_out, d_in], in the orientation and dtype in which the module stores it."""
    stored = model.weight(name)
    module = model.module.get_submodule(name.rpartition(".")[0])
    oriented = as_out_in(module, stored) if stored.ndim == 2 else stored
    if change.shape != oriented.shape:
        raise ValueError(
            f"the edit changes {name!r} by a matrix of shape {list(change.shape)}, but the model has "
            f"{list(oriented.shape)} there; it was made for another model"
        )
    summed = (oriented.double() + change).to(stored.dtype)
    return as_out_in(module, summed) if stored.ndim == 2 else summed
