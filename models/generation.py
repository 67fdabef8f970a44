"""Decoding of rows of equal length.  Ours, because padding would let batch mates change an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.calls import calling


@dataclass(frozen=True)
class Sampling:
    """Draw the next token among the `top_k` most probable ones, and go on past the end of a text.

    Every row draws from a generator of its own, seeded by `seed` and the row's tokens, so that a text does not depend
    on its batch, and two models draw by the same random numbers.

    Raises:
        ValueError: if `top_k` is not positive.
    """

    top_k: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected at least 1 token to choose from")

    def draws(self, row: Sequence[int], steps: int) -> Tensor:
        """[steps] numbers in [0, 1), float64 on the CPU."""
        digest = hashlib.sha256(f"{self.seed}|{list(row)}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        return torch.rand(steps, generator=generator, dtype=torch.float64)


def decode(
    module: Any, input_ids: Tensor, steps: int, eos_ids: Collection[int], sampling: Sampling | None = None
) -> list[list[int]]:
    """The most probable next token, again and again; or one drawn by `sampling`, which knows no end of a text.

    Args:
        module: a causal language model of transformers.
        input_ids: [batch, pos], every row of the same length, no padding.
        steps: most new tokens to make; the caller keeps pos + steps within the context.
        eos_ids: tokens that end a row; they are not part of the result.

    Returns:
        For every row its new token ids, at most `steps`.
    """
    if sampling is None:
        return _continued(module, input_ids, steps, eos_ids, lambda logits, _: logits.argmax(dim=-1))
    draws = torch.stack([sampling.draws(row, steps) for row in input_ids.tolist()]).to(input_ids.device)

    def drawn(logits: Tensor, step: int) -> Tensor:
        kept = logits.double().topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
        below = kept.values.softmax(dim=-1).cumsum(dim=-1)[:, :-1]  # without the last sum, which rounding may keep < 1
        return kept.indices.gather(-1, (below <= draws[:, step, None]).sum(dim=-1, keepdim=True))[:, 0]

    return _continued(module, input_ids, steps, (), drawn)


@torch.no_grad()
def _continued(
    module: Any, input_ids: Tensor, steps: int, eos_ids: Collection[int], choose: Callable[[Tensor, int], Tensor]
) -> list[list[int]]:
    """Every row's new token ids, with cached keys and values; `choose` maps logits [batch, d_vocab] to ids [batch]."""
    rows: list[list[int]] = [[] for _ in range(input_ids.shape[0])]
    running = [True] * len(rows)
    step_ids, cache, start = input_ids, None, 0
    with calling(torch.full((len(rows),), input_ids.shape[1], device=input_ids.device)) as call:
        for step in range(steps):
            positions = torch.arange(start, start + step_ids.shape[1], device=input_ids.device).expand(step_ids.shape)
            output = module(input_ids=step_ids, position_ids=positions, past_key_values=cache, use_cache=True)
            cache, start, call.reads_prompt = output.past_key_values, start + step_ids.shape[1], False
            chosen = choose(output.logits[:, -1].float(), step)
            for index, token_id in enumerate(chosen.tolist()):
                running[index] = running[index] and token_id not in eos_ids
                if running[index]:
                    rows[index].append(token_id)
            if not any(running):
                break
            step_ids = chosen[:, None]
    return rows
