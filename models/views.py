"""An edited model that shares every tensor but the edited ones with the model it was made from.

Writing an edit into shared weights and undoing it by subtraction leaves 7 % of the entries changed, and
`functional_call` or hooks are visible to other threads.  A view does neither: it is a second tree of modules
whose parameters are the first tree's, so nothing is ever written and nothing needs undoing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def share(module: Any, replaced: Mapping[str, Tensor]) -> Any:
    """A copy of the module tree around the same tensors, save those replaced.

    A tied parameter (an embedding that is also the head) is one tensor under two names: replacing either
    replaces both, as writing into it would.

    Args:
        module: any torch module.
        replaced: parameter or buffer name -> new value, of the parameter's shape.  Copied, cast to its dtype.

    Raises:
        ValueError: if a name is unknown, a shape differs, or a value is not finite.
    """
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    memo: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(module)}
    memo[id(module.config)] = copy.deepcopy(module.config)
    for name, value in replaced.items():
        if name not in named:
            raise ValueError(f"the model has no parameter {name!r}; see `module.named_parameters()` for its names")
        memo[id(named[name])] = _like(named[name], value, name)
    return copy.deepcopy(module, memo)


def _like(original: Tensor, value: Tensor, name: str) -> Tensor:
    """`value` as a parameter or buffer that can stand where `original` stood."""
    if value.shape != original.shape:
        raise ValueError(f"{name} has shape {list(original.shape)}, but its replacement has {list(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"the replacement of {name} holds numbers that are not finite")
    # empty_like + copy_ rounds exactly as an in-place edit of the original would
    fresh = torch.empty_like(original, requires_grad=False)
    fresh.copy_(value.detach())
    if isinstance(original, nn.Parameter):
        return nn.Parameter(fresh, requires_grad=original.requires_grad)
    return fresh


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor the tree holds, plain attributes included (rotary embeddings keep some)."""
    for child in module.modules():
        yield from (parameter for parameter in child._parameters.values() if parameter is not None)
        yield from (buffer for buffer in child._buffers.values() if buffer is not None)
        yield from (value for value in child.__dict__.values() if isinstance(value, Tensor))
