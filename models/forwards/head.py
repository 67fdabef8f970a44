"""The head at a few places alone, and losses of its output, computed in one pass over its weight.

With a vocabulary of 262,144 the head is most of a small model, and a search reads it at a few places again and again.
-log P[t] and KL(P || Q) come with a gradient that needs the logits z = W h + b only in sums over the vocabulary,

    d(-log P[t])/dh = sum_v p_v W_v - W_t,    dKL/dh = sum_v p_v (d_v - sum_u p_u d_u) W_v,

with p = softmax(z) and d_v = z_v - log q_v less the same at q's likeliest token, which is near zero where P is near Q,
so that nothing cancels.  As in FlashAttention (Dao et al. 2022, arXiv:2205.14135) the sums are gathered over pieces of
W, each used twice while the processor's cache holds it, and divided by the normaliser once that is known.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Places = tuple[Tensor, Tensor]
"""Rows and positions, [place] each."""
PIECE = 320 * 1024
"""Entries of the weight in a piece: 1.3 MB, what a core's cache holds beside the rest."""


@contextmanager
def only_at(head: nn.Module, places: Places) -> Iterator[None]:
    """While open, this thread's head sees these places alone, as one row; the caller holds the model's lock."""
    owner = threading.get_ident()

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if threading.get_ident() != owner:
            return None
        row, position = (index.to(args[0].device) for index in places)
        return (args[0][row, position][None], *args[1:])

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def losses(logits: Tensor, tokens: Tensor, bases: Tensor) -> Tensor:
    """-log P[token] at the first places, KL(P || base) at the others, in nats: [place, d_vocab] -> [place].

    Args:
        tokens: [n], one for each of the first n places.
        bases: [place - n, d_vocab], log probabilities.
    """
    return _losses(logits.log_softmax(-1), tokens, bases)


def _losses(log_probs: Tensor, tokens: Tensor, bases: Tensor) -> Tensor:
    first, rest = log_probs.tensor_split([len(tokens)])
    return torch.cat([-first.gather(-1, tokens[:, None])[:, 0], (rest.exp() * (rest - bases)).sum(-1)])


def head_losses(states: Tensor, head: nn.Linear, tokens: Tensor, bases: Tensor) -> Tensor:
    """`losses` of head(states), states [place, d_model], with gradients for the states alone.

    In one pass on a CPU in float32; elsewhere, and where a token is less likely than exp(-80), by way of the logits.
    """
    weight = head.weight
    if weight.device.type == "cpu" and states.dtype == weight.dtype == torch.float32:
        found, gradient = _in_one_pass(states.detach(), weight.detach(), head.bias, tokens, bases)
        if bool(gradient.isfinite().all()):
            return _WithGradient.apply(states, found, gradient)
    return losses(head(states).float(), tokens, bases)


class _WithGradient(torch.autograd.Function):
    """Losses [place] of states [place, d_model] whose gradient [place, d_model] is known."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, found: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return found

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[:, None] * gradient, None, None


@torch.no_grad()
def _in_one_pass(
    states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, bases: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses [place] and their gradients [place, d_model]; not finite where exp overflows."""
    n, places, size = len(tokens), len(states), max(1, PIECE // weight.shape[1])
    likeliest = bases.argmax(-1)
    anchors = torch.cat([tokens, likeliest])
    at_anchor = (states * weight[anchors]).sum(-1, keepdim=True)
    if bias is not None:
        at_anchor += bias[anchors, None]
    from_likeliest = bases - bases.gather(-1, likeliest[:, None])
    terms = states.new_empty(places + len(bases), size)  # exp(z), and the same times d where there is a base
    exps, near, weighted = terms[:places], terms[n:places], terms[places:]
    sums = states.new_zeros(len(terms), weight.shape[1])
    parts: list[Tensor] = []
    for index, (rows, base) in enumerate(zip(weight.split(size), from_likeliest.split(size, 1), strict=True)):
        if len(rows) < size:  # the last piece
            terms, exps, near, weighted = (each[:, : len(rows)] for each in (terms, exps, near, weighted))
        z = (states @ rows.T).sub_(at_anchor)
        if bias is not None:
            z += bias[index * size : (index + 1) * size]
        torch.exp(z, out=exps)
        torch.sub(z[n:], base, out=weighted).mul_(near)
        sums.addmm_(terms, rows)
        parts.append(z)
    logits = torch.cat(parts, 1)  # less than at the anchors
    log_probs = logits.log_softmax(-1)
    normalisers = (-log_probs.gather(-1, anchors[:, None])).exp()
    means = sums[:places] / normalisers
    mean_d = (log_probs[n:].exp() * (logits[n:] - from_likeliest)).sum(-1, keepdim=True)
    to_bases = sums[places:] / normalisers[n:] - mean_d * means[n:]
    return _losses(log_probs, tokens, bases), torch.cat([means[:n] - weight[tokens], to_bases])
