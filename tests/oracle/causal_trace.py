"""Causal tracing as its definition says: plain torch hooks, one full forward per cell, one sample at a time.

Slow and obvious.  Modules are found by the names each family gives them; nothing of `models` or `tracing` is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

LAYER_LISTS = (
    "transformer.h",
    "transformer.blocks",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.layers",
)
ATTENTION = ("attn", "attention", "self_attn", "self_attention", "linear_attn", "mamba", "conv")
PROJECTION = ("attention.out_proj", "c_proj", "out_proj", "dense", "o_proj")
RESIDUAL_INSIDE = ("Bloom", "Mpt")
"""Their modules return the residual with their own write in it, so the write is what the last linear layer gives."""


def layers_of(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks, in order."""
    for name in LAYER_LISTS:
        with contextlib.suppress(AttributeError):
            return list(module.get_submodule(name))  # type: ignore[arg-type]
    raise AssertionError(f"no blocks in {type(module).__name__}")


def child(block: nn.Module, names: Sequence[str]) -> nn.Module:
    """The first part with one of these names."""
    for name in names:
        with contextlib.suppress(AttributeError):
            return block.get_submodule(name)
    raise AssertionError(f"{type(block).__name__} has none of {names}")


def site_module(block: nn.Module, site: str) -> nn.Module:
    """The module whose output is the site, or whose input for attn_heads."""
    inside = type(block).__name__.startswith(RESIDUAL_INSIDE)
    attention = child(block, ATTENTION)
    if site == "resid_post":
        return block
    if site == "attn_heads" or (site == "attn_out" and inside):
        return child(attention, PROJECTION)
    if site == "attn_out":
        return attention
    # OPT has no MLP module; its fc2 writes to the residual stream
    return child(
        block, ("mlp.dense_4h_to_h", "ffn.down_proj") if inside else ("mlp", "fc2", "shared_mlp", "feed_forward")
    )


@contextlib.contextmanager
def rewritten(module: nn.Module, change: Callable[[Tensor], Tensor], length: int, *, reads: bool) -> Iterator[None]:
    """While open, what `module` returns (or reads) [1, pos, d] passes through `change`."""

    def changed(tensor: Tensor) -> Tensor:
        return change(tensor.clone().reshape(1, length, -1)).reshape(tensor.shape)

    def after(_: nn.Module, __: object, output: object) -> object:
        if isinstance(output, tuple):
            return (changed(output[0]), *output[1:])
        assert isinstance(output, Tensor)
        return changed(output)

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (changed(args[0]), *args[1:])

    handle = module.register_forward_pre_hook(before) if reads else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@dataclass
class Cell:
    """One restored run: which layers at which position, and which head of them."""

    pos: int
    window: range
    head: int | None = None


@dataclass
class Oracle:
    """A prompt's runs, one forward at a time.

    `ids` are prompt and answer; `embeddings` [sample, n_subject, d_model] stand at the subject in corrupted runs.
    """

    module: nn.Module
    ids: Sequence[int]
    n_prompt: int
    subject: range
    embeddings: Tensor
    site: str
    severed: str | None = None
    noising: bool = False
    n_heads: int = 1

    def kept(self, site: str, sample: int | None) -> list[Tensor]:
        """[1, pos, d] by layer, in the clean run (None) or a corrupted one."""
        states: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            for block in layers_of(self.module):

                def keep(state: Tensor) -> Tensor:
                    states.append(state.clone())
                    return state

                stack.enter_context(self.rewritten(block, site, keep))
            self.run(sample)
        return states

    def rewritten(
        self, block: nn.Module, site: str, change: Callable[[Tensor], Tensor]
    ) -> contextlib.AbstractContextManager[None]:
        return rewritten(site_module(block, site), change, len(self.ids), reads=site == "attn_heads")

    @torch.no_grad()
    def run(self, sample: int | None) -> Tensor:
        """[answer, d_vocab] float32 logits of a run, clean (None) or corrupted, under whatever hooks are open."""

        def corrupt(state: Tensor) -> Tensor:
            state[0, self.subject.start : self.subject.stop] = self.embeddings[sample]
            return state

        with contextlib.ExitStack() as stack:
            if sample is not None:
                embedding = self.module.get_input_embeddings()  # type: ignore[operator]
                stack.enter_context(rewritten(embedding, corrupt, len(self.ids), reads=False))
            logits = self.module(input_ids=torch.tensor([self.ids])).logits[0].float()
        return logits[self.n_prompt - 1 : -1]

    def restored(self, cell: Cell, sample: int) -> Tensor:
        """[answer, d_vocab], the run with the cell's states put in."""
        base, source = (None, sample) if self.noising else (sample, None)
        new = self.kept(self.site, source)
        held = self.kept(self.severed, base) if self.severed else []
        same = self.severed == ("attn_out" if self.site == "attn_heads" else self.site)
        with contextlib.ExitStack() as stack:
            for layer, block in enumerate(layers_of(self.module)):
                # a module inside its own window is restored, not held
                if self.severed and not (same and layer in cell.window):

                    def hold(state: Tensor, layer: int = layer) -> Tensor:
                        state[0, cell.pos] = held[layer][0, cell.pos]
                        return state

                    stack.enter_context(self.rewritten(block, self.severed, hold))
                if layer in cell.window:

                    def restore(state: Tensor, layer: int = layer) -> Tensor:
                        if cell.head is None:
                            state[0, cell.pos] = new[layer][0, cell.pos]
                        else:
                            width = state.shape[-1] // self.n_heads
                            part = slice(cell.head * width, (cell.head + 1) * width)
                            state[0, cell.pos, part] = new[layer][0, cell.pos, part]
                        return state

                    stack.enter_context(self.rewritten(block, self.site, restore))
            return self.run(base)

    def probability(self, logits: Tensor) -> float:
        """P(answer) as a product of softmax probabilities."""
        chances = torch.softmax(logits.double(), -1)
        return float(np.prod([float(chances[i, token]) for i, token in enumerate(self.ids[self.n_prompt :])]))
