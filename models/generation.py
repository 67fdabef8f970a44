"""Decoding: greedy, or drawn among the likeliest tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.calls import calling
from models.views import plain

PADDING = 256
"""Tokens of padding that cost about as much as decoding another batch."""


def batches(lengths: Sequence[int], padded: bool) -> list[list[int]]:
    """Groups of rows to decode together: of equal length, or of similar length if they may be padded.

    Args:
        lengths: [row], tokens of each.
    """
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padding += lengths[groups[-1][0]] - lengths[row] if groups else 0
        if not groups or padding > (PADDING if padded else 0):
            groups.append([])
            padding = 0
        groups[-1].append(row)
    return groups


@torch.no_grad()
def greedy(
    module: Any,
    rows: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    steps: Sequence[int],
    eos_ids: Collection[int],
    device: torch.device,
    cache: Any = None,
) -> list[list[int]]:
    """The most probable next token, again and again, with cached keys and values.

    Rows of unlike length are padded on the left, behind an attention mask and with positions of their own; where the
    module decides by the prompt, which it counts from a row's beginning, they are to be of one length.

    Args:
        module: a causal language model of transformers.
        rows: token ids, the beginning of an answer included where there is one.
        prompt_lengths: [row], tokens of each row's prompt.
        steps: [row], most new tokens of each, at least 1; the caller keeps pos + steps within the context.
        eos_ids: tokens that end a row; they are not part of the result.
        cache: transformers' cache of all tokens but each row's last, if they were read before.

    Returns:
        For every row its new token ids.
    """
    width = max(map(len, rows))
    padding = torch.tensor([width - len(row) for row in rows], device=device)
    step_ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    done = 0
    if cache is not None:
        step_ids, done = step_ids[:, -1:], width - 1
    made: list[list[int]] = [[] for _ in rows]
    running, shrinks = list(range(len(rows))), plain(module)
    with calling(torch.tensor(prompt_lengths, device=device)) as call:
        for step in range(max(steps, default=0)):
            chosen, cache = _next_tokens(module, step_ids, padding, done, cache)
            done, call.reads_prompt = width + step, False
            going: list[int] = []
            for index, token_id in enumerate(chosen.tolist()):
                row = running[index]
                if row >= 0 and token_id not in eos_ids:
                    made[row].append(token_id)
                if row >= 0 and token_id not in eos_ids and len(made[row]) < steps[row]:
                    going.append(index)
                else:
                    running[index] = -1
            if not going:
                break
            if shrinks and 2 * len(going) <= len(running) and _selects(cache):  # rows that have ended cost as much
                left = torch.tensor(going, device=device)
                cache.batch_select_indices(left)
                chosen, padding, running = chosen[left], padding[left], [running[index] for index in going]
            step_ids = chosen[:, None]
    return made


def _selects(cache: Any) -> bool:
    """Whether rows can be taken out of a cache; transformers cannot where a layer keeps no keys and values."""
    return all(hasattr(layer, "batch_select_indices") for layer in cache.layers)


def _next_tokens(module: Any, ids: Tensor, padding: Tensor, done: int, cache: Any) -> tuple[Tensor, Any]:
    """[row] the most probable token behind `ids` [row, new], of which `done` tokens are in the cache; and the cache.

    `padding` [row] tokens stand on the left of each row.
    """
    length = done + ids.shape[1]
    ends = torch.arange(done, length, device=ids.device)[None]
    mask = torch.arange(length, device=ids.device)[None] >= padding[:, None] if padding.any() else None
    output = module(
        input_ids=ids,
        position_ids=(ends - padding[:, None]).clamp_min(0),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float().argmax(dim=-1), output.past_key_values


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

    def draws(self, row: Sequence[int], steps: int) -> list[float]:
        """As many numbers in [0, 1)."""
        digest = hashlib.sha256(f"{self.seed}|{list(row)}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        numbers: list[float] = torch.rand(steps, generator=generator, dtype=torch.float64).tolist()
        return numbers


@torch.no_grad()
def drawn(module: Any, rows: Sequence[Sequence[int]], length: int, sampling: Sampling, device: Any) -> list[list[int]]:
    """Extend rows up to `length` tokens by drawn tokens, with cached keys and values.

    Rows may differ in length: all begin with as many tokens as the shortest has, and a longer one reads its own next
    tokens where the others draw.  So they need no padding, but a module that must know where the prompt ends is to be
    given rows of one length.

    Args:
        module: a causal language model of transformers.
        length: tokens in the end, within the context.

    Returns:
        For every row its new token ids.
    """
    texts = [list(row) for row in rows]
    start = min(map(len, rows))
    numbers = [sampling.draws(row, max(0, length - len(row))) for row in rows]
    cache, done = None, 0
    with calling(torch.full((len(rows),), start, device=device)) as call:
        for position in range(start, length):
            step_ids = torch.tensor([text[done:position] for text in texts], device=device)
            positions = torch.arange(done, position, device=device).expand(step_ids.shape)
            output = module(input_ids=step_ids, position_ids=positions, past_key_values=cache, use_cache=True)
            cache, done, call.reads_prompt = output.past_key_values, position, False
            kept = output.logits[:, -1].double().topk(min(sampling.top_k, output.logits.shape[-1]), dim=-1)
            ends = kept.values.softmax(dim=-1).cumsum(dim=-1).tolist()
            for row, (text, ids) in enumerate(zip(texts, kept.indices.tolist(), strict=True)):
                if len(text) == position:
                    number = numbers[row][position - len(rows[row])]
                    # without the last sum, which rounding may leave below the number
                    text.append(ids[sum(end <= number for end in ends[row][:-1])])
    return [text[len(row) :] for text, row in zip(texts, rows, strict=True)]
