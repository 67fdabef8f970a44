"""A view of a model: a second module tree that shares every tensor except the replaced ones.

Writing an edit into shared weights and undoing it by subtraction leaves 7 % of the entries changed, and
`functional_call` or hooks are visible to other threads.  A view writes to nothing, so nothing has to be undone.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Rewrite = Callable[[Tensor, Tensor], Tensor]
"""(input [batch, pos, d_in], output [batch, pos, d_out]) of a layer -> what it gives instead, [batch, pos, d_out]."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of a layer's weight, W + rows cols in the orientation y = W x."""

    path: str
    """Of the layer."""
    rows: Tensor
    """[d_out, rank]"""
    cols: Tensor
    """[rank, d_in]"""


def share(module: Any, replaced: Mapping[str, Tensor], rewrites: Mapping[str, Rewrite] | None = None) -> Any:
    """A copy of the module tree with the same tensors, except those replaced.

    A tied parameter (an embedding that is also the head) is one tensor under two names: replacing either
    replaces both, as writing into it would.

    Args:
        module: any torch module.
        replaced: parameter or buffer name -> new value, of the parameter's shape.  Copied, cast to its dtype.
        rewrites: path of a layer -> function that has the last word on what it gives.  It must be safe for threads.

    Raises:
        ValueError: if a name or path is unknown, a shape differs, or a value is not finite.
    """
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    memo: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(module)}
    memo[id(module.config)] = copy.deepcopy(module.config)
    for name, value in replaced.items():
        if name not in named:
            raise ValueError(f"the model has no parameter {name!r}; see `module.named_parameters()` for its names")
        memo[id(named[name])] = _like(named[name], value, name)
    copied = copy.deepcopy(module, memo)
    for path, rewrite in (rewrites or {}).items():
        _rewrite(copied, path, rewrite)
    return copied


def _rewrite(module: nn.Module, path: str, rewrite: Rewrite) -> None:
    """A hook, not a wrapper: the copied layer belongs to the view and keeps its type, path and weight name."""
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        raise ValueError(f"the model has no part {path!r}; see `module.named_modules()` for their names") from None
    layer.register_forward_hook(lambda _layer, inputs, output: rewrite(inputs[0], output))


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


def plain(module: nn.Module) -> bool:
    """Whether a module consists of transformers' and torch's own parts, without hooks.

    A forward changed by a hook or a foreign part may depend on the whole prompt, so a probe of it proves nothing.
    """
    for part in module.modules():
        if type(part).__module__.partition(".")[0] not in ("transformers", "torch"):
            return False
        if part._forward_hooks or part._forward_pre_hooks:
            return False
    return True


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over named tensors: name, dtype, shape and bytes, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
