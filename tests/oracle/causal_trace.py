"""Causal tracing as its definition says: plain torch hooks, one full forward per cell, one sample at a time.

Slow and obvious.  Modules are found by the names each family gives them; nothing of `models` or `tracing` is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

LAYER_LISTS = ("transformer.h", "gpt_neox.layers", "model.decoder.layers", "model.layers")
ATTENTION = ("attn", "attention", "self_attn")
MLP = ("mlp", "fc2")  # OPT has no MLP module; its fc2 writes to the residual stream


def layers_of(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks, in order."""
    for name in LAYER_LISTS:
        with contextlib.suppress(AttributeError):
            return list(module.get_submodule(name))  # type: ignore[arg-type]
    raise AssertionError(f"no blocks in {type(module).__name__}")


def child(block: nn.Module, names: Sequence[str]) -> nn.Module:
    """The first child with one of these names."""
    return next(getattr(block, name) for name in names if hasattr(block, name))


def site_modules(module: nn.Module, site: str) -> list[nn.Module]:
    """The module of every layer whose output is the site."""
    blocks = layers_of(module)
    if site == "resid_post":
        return list(blocks)
    return [child(block, ATTENTION if site == "attn_out" else MLP) for block in blocks]


@contextlib.contextmanager
def rewritten(module: nn.Module, change: Callable[[Tensor], Tensor], length: int) -> Iterator[None]:
    """While open, `module`'s output [1, pos, d_model] passes through `change`."""

    def hook(_: nn.Module, __: object, output: object) -> object:
        tensor = output[0] if isinstance(output, tuple) else output
        assert isinstance(tensor, Tensor)
        new = change(tensor.clone().reshape(1, length, -1)).reshape(tensor.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def answer_probability(module: nn.Module, ids: Sequence[int], n_prompt: int) -> float:
    """P(ids[n_prompt:] | ids[:n_prompt]) as a product of softmax probabilities."""
    logits = module(input_ids=torch.tensor([ids])).logits[0].float()
    probabilities = torch.softmax(logits, -1)
    return float(np.prod([float(probabilities[pos - 1, ids[pos]]) for pos in range(n_prompt, len(ids))]))


@torch.no_grad()
def trace(
    module: nn.Module,
    ids: Sequence[int],
    n_prompt: int,
    subject: range,
    noise: Tensor,
    site: str,
    windows: Sequence[range],
) -> tuple[float, np.ndarray, np.ndarray]:
    """(clean, corrupted [sample], restored [sample, pos, layer]): probabilities of `ids[n_prompt:]`.

    `noise` is [sample, n_subject, d_model], already scaled; `windows[l]` are the layers restored for layer l.
    """
    modules, embedding = site_modules(module, site), module.get_input_embeddings()  # type: ignore[operator]
    kept: dict[int, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for layer, part in enumerate(modules):

            def keep(state: Tensor, layer: int = layer) -> Tensor:
                kept[layer] = state.clone()
                return state

            stack.enter_context(rewritten(part, keep, len(ids)))
        clean = answer_probability(module, ids, n_prompt)
    corrupted = np.zeros(len(noise))
    restored = np.zeros((len(noise), n_prompt, len(modules)))
    for sample, eps in enumerate(noise):

        def corrupt(state: Tensor, eps: Tensor = eps) -> Tensor:
            state[0, subject.start : subject.stop] += eps
            return state

        with rewritten(embedding, corrupt, len(ids)):
            corrupted[sample] = answer_probability(module, ids, n_prompt)
            for pos in range(n_prompt):
                for layer, window in enumerate(windows):
                    with contextlib.ExitStack() as stack:
                        for restored_layer in window:

                            def restore(state: Tensor, layer: int = restored_layer, pos: int = pos) -> Tensor:
                                state[0, pos] = kept[layer][0, pos]
                                return state

                            stack.enter_context(rewritten(modules[restored_layer], restore, len(ids)))
                        restored[sample, pos, layer] = answer_probability(module, ids, n_prompt)
    return clean, corrupted, restored
