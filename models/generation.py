"""Greedy decoding of rows of equal length.  Ours, because padding would let batch mates change an answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from models.calls import calling


@torch.no_grad()
def greedy(module: Any, input_ids: Tensor, steps: int, eos_ids: Collection[int]) -> list[list[int]]:
    """The most probable next token, again and again, with cached keys and values.

    Args:
        module: a causal language model of transformers.
        input_ids: [batch, pos], every row of the same length, no padding.
        steps: most new tokens to make; the caller keeps pos + steps within the context.
        eos_ids: tokens that end a row; they are not part of the result.

    Returns:
        For every row its new token ids, at most `steps`.
    """
    rows: list[list[int]] = [[] for _ in range(input_ids.shape[0])]
    running = [True] * len(rows)
    step_ids, cache, start = input_ids, None, 0
    with calling(torch.full((len(rows),), input_ids.shape[1], device=input_ids.device)) as call:
        for _ in range(steps):
            positions = torch.arange(start, start + step_ids.shape[1], device=input_ids.device).expand(step_ids.shape)
            output = module(input_ids=step_ids, position_ids=positions, past_key_values=cache, use_cache=True)
            cache, start, call.reads_prompt = output.past_key_values, start + step_ids.shape[1], False
            chosen = output.logits[:, -1].float().argmax(dim=-1)
            for index, token_id in enumerate(chosen.tolist()):
                running[index] = running[index] and token_id not in eos_ids
                if running[index]:
                    rows[index].append(token_id)
            if not any(running):
                break
            step_ids = chosen[:, None]
    return rows
