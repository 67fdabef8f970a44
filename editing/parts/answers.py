"""The probability of answers after their prompts: the loss that every trained part of an edit lowers.

Only the answer's tokens are scored, each at the position before it.  Rows are padded on the right, which a causal model
cannot see.  Padding and start tokens are never targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from facts import EditRequest
from models import LanguageModel, join, pad

FORWARD_TOKENS = 4096
"""Most tokens in one forward pass, padding included, so that gradients fit the memory of a small machine."""


class Answered(Protocol):
    """A row of token ids whose end is an answer."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""


@dataclass(frozen=True)
class AnswerRow:
    """A prompt with an answer, tokenised."""

    ids: tuple[int, ...]
    n_prompt: int


def answer_row(model: LanguageModel, prompt: str, answer: str) -> AnswerRow:
    """Prompt and answer joined by a space.

    Raises:
        ValueError: if either is empty or both are too long for the model.
    """
    ids, n_prompt = join(model, prompt, answer)
    return AnswerRow(tuple(ids), n_prompt)


def new_answers(model: LanguageModel, requests: Sequence[EditRequest]) -> list[AnswerRow]:
    """Each request's bare prompt with its new answer."""
    return [answer_row(model, request.fact.prompt, request.target_new) for request in requests]


class Targets:
    """Positions of the answers' tokens in a padded batch of rows, to read any logits of that batch."""

    def __init__(self, rows: Sequence[Answered], device: torch.device) -> None:
        places = [
            (index, self.place(row, position), row.ids[position], 1 / (len(row.ids) - row.n_prompt))
            for index, row in enumerate(rows)
            for position in range(row.n_prompt, len(row.ids))
        ]
        row, position, token, share = zip(*places, strict=True)
        self.n_rows = len(rows)
        self.row, self.position, self.token = (torch.tensor(x, device=device) for x in (row, position, token))
        self.share = torch.tensor(share, device=device)

    @staticmethod
    def place(row: Answered, position: int) -> int:
        """The position whose logits predict the token at `position`: the one before it."""
        return position - 1

    def nll(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean negative log probability of each row's answer tokens: [batch, pos, d_vocab] -> [batch], in nats."""
        return self.nll_there(logits[self.row, self.position])

    def nll_there(self, logits: torch.Tensor) -> torch.Tensor:
        """The same from the logits where the answers are read, [token, d_vocab] at (`row`, `position`)."""
        return self.by_row(-logits.log_softmax(-1).gather(-1, self.token[:, None])[:, 0])

    def by_row(self, each: torch.Tensor) -> torch.Tensor:
        """The mean of each row's answer tokens, [token] -> [batch]."""
        return torch.zeros(self.n_rows, device=each.device, dtype=each.dtype).index_add(0, self.row, each * self.share)


def padded(model: LanguageModel, rows: Sequence[Answered]) -> torch.Tensor:
    """[batch, pos] ids on the model's device, padded on the right."""
    return pad([row.ids for row in rows], model.pad_id)[0].to(model.device)


def portions(sizes: Sequence[tuple[int, int]], most: int = FORWARD_TOKENS) -> Iterator[range]:
    """Split groups of rows into consecutive portions that each fit one forward pass.

    Args:
        sizes: (rows, longest row in tokens) of each group.
        most: tokens in one forward pass, padding included; a larger group is a portion of its own.
    """
    start = rows = longest = 0
    for index, (n, length) in enumerate(sizes):
        if index > start and (rows + n) * max(longest, length) > most:
            yield range(start, index)
            start, rows, longest = index, 0, 0
        rows, longest = rows + n, max(longest, length)
    if sizes:
        yield range(start, len(sizes))


def probabilities(model: LanguageModel, rows: Sequence[Answered]) -> list[float]:
    """Probability of each row's whole answer, without gradients."""
    values: list[float] = []
    for portion in portions([(1, len(row.ids)) for row in rows]):
        some = [rows[index] for index in portion]
        lengths, prompts = [len(row.ids) for row in some], [row.n_prompt for row in some]
        places = [range(n_prompt - 1, n - 1) for n_prompt, n in zip(prompts, lengths, strict=True)]
        for row, logits in zip(some, model.logits_where([row.ids for row in some], places, prompts), strict=True):
            answer = torch.tensor(row.ids[row.n_prompt :], device=logits.device)
            values.append(math.exp(float(logits.log_softmax(-1).gather(-1, answer[:, None]).sum())))
    return values
