"""Lenses as their definitions say, in plain torch: norm and head applied by hand, attention weights zeroed by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import torch
from torch import Tensor, nn

ATTENTION = ("attn", "attention", "self_attn", "self_attention")
NORMS = ("transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm", "model.final_layernorm")
NORMS += ("model.norm", "transformer.norm_f")


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The blocks, in order: a decoder's first list of modules."""
    return list(next(part for part in module.modules() if isinstance(part, nn.ModuleList)))


@torch.no_grad()
def block_outputs(module: nn.Module, ids: Sequence[int]) -> list[Tensor]:
    """Every block's output, [pos, d_model]."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    handles = [block.register_forward_hook(keep) for block in layers_of(module)]
    module(input_ids=torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return kept


@torch.no_grad()
def lens(module: nn.Module, state: Tensor) -> Tensor:
    """[pos, d_vocab], probabilities a state [pos, d_model] gives through the final norm and the head."""
    for name in NORMS:
        with contextlib.suppress(AttributeError):
            norm = module.get_submodule(name)
            break
    return torch.softmax(module.get_output_embeddings()(norm(state)).float(), -1)  # type: ignore[operator]


@contextlib.contextmanager
def weights_cut(module: nn.Module, layers: Sequence[int], cut: Tensor) -> Iterator[None]:
    """While open, the attention weights [..., query, key] of these layers are zero at `cut` and renormalised.

    For modules with eager attention: every family's calls `torch.nn.functional.softmax`.
    """
    inside: list[int] = []
    plain = nn.functional.softmax

    def softmax(scores: Tensor, *args: object, **kwargs: object) -> Tensor:
        weights = plain(scores, *args, **kwargs)  # type: ignore[arg-type]
        if not inside or weights.shape[-2:] != cut.shape:
            return weights
        kept = weights.masked_fill(cut, 0.0)
        return kept / kept.sum(-1, keepdim=True)

    with contextlib.ExitStack() as stack:
        for layer in layers:
            block = layers_of(module)[layer]
            attention = next(getattr(block, name) for name in ATTENTION if hasattr(block, name))
            stack.callback(attention.register_forward_pre_hook(lambda *_: inside.append(1)).remove)
            stack.callback(attention.register_forward_hook(lambda *_: inside.clear()).remove)
        stack.enter_context(patch.object(nn.functional, "softmax", softmax))
        yield
