"""Unwanted changes by an edit: divergence of next-token distributions, perplexity of neutral texts.

Perplexity as a guard against a model that an edit broke while its edit scores look fine: Yang et al. 2024
(arXiv:2402.09656).  Divergence at neighbours: Hoelscher-Obermaier et al. 2023 (CounterFact+, arXiv:2305.17553).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from metrics.asking.kept import answers
from metrics.asking.logprobs import batches, row_logits, token_ids

if TYPE_CHECKING:
    from models import LanguageModel


def kl_divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """KL(before || after) in nats, from log probabilities [d_vocab]; rounding below zero is cut."""
    return max(0.0, float((before.exp() * (before - after)).sum()))


def text_nll(
    model: LanguageModel,
    texts: Sequence[str],
    tick: Callable[[int], None] = lambda _: None,
    max_positions: int | None = None,
) -> list[tuple[float, int]]:
    """Per text (summed negative log probability in nats, number of predicted tokens).

    The first token is not predicted.  A text is cut at `max_positions`, by default the context's length; one of fewer
    than two tokens gives (0, 0).
    """
    rows = [tuple(row) for row in token_ids(model, texts, max_positions)]
    long_enough = [row for row in rows if len(row) >= 2]
    sums = answers(model, long_enough, lambda new: _nll(model, new, tick), tick)
    return [sums.get(row, (0.0, 0)) for row in rows]


def _nll(
    model: LanguageModel, rows: Sequence[tuple[int, ...]], tick: Callable[[int], None]
) -> dict[tuple[int, ...], tuple[float, int]]:
    sums: dict[tuple[int, ...], tuple[float, int]] = {}
    for chunk in batches(rows, len, model.d_vocab):
        for row, logits in zip(chunk, row_logits(model, [list(row) for row in chunk]), strict=True):
            log_probs = logits[:-1].double().log_softmax(-1)
            following = torch.tensor(row[1:], device=log_probs.device)
            sums[row] = -float(log_probs.gather(-1, following[:, None]).sum()), len(row) - 1
        tick(len(chunk))
    return sums


def count_scorable(model: LanguageModel, texts: Sequence[str]) -> int:
    """Number of texts with at least two tokens."""
    return sum(len(row) >= 2 for row in token_ids(model, texts))
