"""Teacher-forced readings: how probable a model finds a given answer after a given prompt.

Sequences are run in groups of one length, so that no padding exists and a prompt's numbers cannot depend on the others.
Log probabilities are computed from float32 logits in float64 at the answer's positions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from facts.types import MAX_PROMPT_CHARACTERS
from models.tokens import join

if TYPE_CHECKING:
    from models import LanguageModel

T = TypeVar("T")

MAX_LOGITS = 2**25
"""Largest [batch, pos, d_vocab] block of logits held at once, entries (128 MiB in float32)."""


@dataclass(frozen=True, eq=False)
class Forced:
    """An answer's tokens under teacher forcing.  Numbers are None where the model's logits are not finite."""

    nll: float | None
    """Mean over the answer's tokens, nats: the length-normalised form of Meng et al. 2022, appendix D."""
    probability: float | None
    """Of all tokens together."""
    token_accuracy: float | None
    rank: int | None
    """Of the first token; 1 is the most probable."""
    next_log_probs: torch.Tensor | None = None
    """[d_vocab] float64 on the CPU, at the prompt's last token; only where asked for."""


def score_answers(
    model: LanguageModel,
    pairs: Iterable[tuple[str, str]],
    *,
    keep_next: Collection[tuple[str, str]] = (),
    tick: Callable[[int], None] = lambda _: None,
) -> dict[tuple[str, str], Forced]:
    """The reading of each distinct (prompt, answer), in few batched forwards.

    Args:
        keep_next: pairs whose next-token distribution at the prompt's end is wanted too.
        tick: called with the number of pairs after each forward; may raise to stop.

    Raises:
        ValueError: if a prompt or answer is empty, or both together are longer than the context.
    """
    joined = {pair: join(model, *pair) for pair in dict.fromkeys(pairs)}
    found: dict[tuple[str, str], Forced] = {}
    for chunk in batches(joined, lambda pair: len(joined[pair][0]), model.d_vocab):
        ids = torch.tensor([joined[pair][0] for pair in chunk], device=model.device)
        logits = model.logits(ids)
        for row, pair in enumerate(chunk):
            found[pair] = _read(logits[row], ids[row], joined[pair][1], pair in keep_next)
        tick(len(chunk))
    return {pair: found[pair] for pair in joined}


def batches(items: Iterable[T], length: Callable[[T], int], d_vocab: int) -> Iterator[list[T]]:
    """Items in groups of one length, each group in chunks whose logits fit MAX_LOGITS."""
    groups: dict[int, list[T]] = {}
    for item in items:
        groups.setdefault(length(item), []).append(item)
    for n_tokens, group in groups.items():
        size = max(1, MAX_LOGITS // (n_tokens * d_vocab))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _read(logits: torch.Tensor, ids: torch.Tensor, n_prompt: int, keep_next: bool) -> Forced:
    """`logits` [pos, d_vocab]; position p predicts token p + 1."""
    log_probs = logits[n_prompt - 1 : -1].double().log_softmax(-1)
    answer = ids[n_prompt:]
    if not bool(torch.isfinite(log_probs).all()):
        return Forced(None, None, None, None)
    of_answer = log_probs.gather(-1, answer[:, None])[:, 0]
    correct = log_probs.argmax(-1) == answer
    return Forced(
        nll=-float(of_answer.mean()),
        probability=math.exp(float(of_answer.sum())),
        token_accuracy=float(correct.double().mean()),
        rank=int((log_probs[0] > of_answer[0]).sum()) + 1,
        next_log_probs=log_probs[0].cpu() if keep_next else None,
    )


def token_ids(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of running texts, cut at the context's end: for perplexity, where the beginning is enough."""
    return [model.tokenize(text[:MAX_PROMPT_CHARACTERS])[: model.max_positions] for text in texts]
