"""Reading and rewriting activations with plain torch hooks: what `models.run` must agree with to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from models import LanguageModel

Key = tuple[str, int]


def site_path(model: LanguageModel, key: Key) -> str:
    """The module a site belongs to, spelled out."""
    site, layer = key
    names = model.architecture
    block = f"{names.layers}.{layer}"
    return {
        "embed": names.embedding,
        "attn_heads": f"{block}.{names.heads}",
        "attn_out": f"{block}.{names.mixer if layer in names.mixed else names.attn}",
        "mlp_key": f"{block}.{names.key_module}",
        "mlp_out": f"{block}.{names.mlp or names.key_module}",
        "resid_post": block,
    }[site]


def hooked(
    model: LanguageModel,
    input_ids: Tensor,
    captures: list[Key],
    patches: Mapping[Key, Callable[[Tensor], Tensor]],
    **inputs: Any,
) -> tuple[Tensor, dict[Key, Tensor]]:
    """Logits [batch, pos, d_vocab] and the captured activations."""
    pos = input_ids.shape[1]
    captured: dict[Key, Tensor] = {}

    def visit(key: Key, value: Tensor) -> Tensor:
        shaped = value.clone().view(-1, pos, value.shape[-1])
        if key in patches:
            shaped = patches[key](shaped)
        if key in captures:
            captured[key] = shaped.clone()
        return shaped.reshape(-1, shaped.shape[-1]) if value.ndim == 2 else shaped

    def before(key: Key) -> Callable[..., Any]:
        return lambda _module, args: (visit(key, args[0]), *args[1:])

    def after(key: Key) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            return (visit(key, output[0]), *output[1:]) if isinstance(output, tuple) else visit(key, output)

        return hook

    with ExitStack() as stack, torch.no_grad(), model.lock:
        for key in {*captures, *patches}:
            module = model.module.get_submodule(site_path(model, key))
            if key[0] in ("attn_heads", "mlp_key"):
                stack.callback(module.register_forward_pre_hook(before(key)).remove)
            else:
                stack.callback(module.register_forward_hook(after(key)).remove)
        logits = model.module(input_ids=input_ids, use_cache=False, **inputs).logits
    return logits, captured
