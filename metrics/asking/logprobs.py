"""Teacher-forced readings: how probable a model finds a given answer after a given prompt.

Rows are padded on the right and attention is causal, so no real token sees padding, and a prompt's numbers do not
depend on its batch.  Log probabilities are computed from float32 logits in float64, at the answer's positions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from facts.types import MAX_PROMPT_CHARACTERS
from metrics.asking.kept import answers
from models.text.tokens import join

if TYPE_CHECKING:
    from models import LanguageModel

T = TypeVar("T", bound=Hashable)

SPREAD = 1.5
"""Largest ratio of lengths within a batch; up to about this, padding is cheaper than another forward."""

MAX_LOGITS = 2**25
"""Largest [place, d_vocab] block of logits held at once, entries (128 MiB in float32)."""

MAX_TOKENS = 2**14
"""Most tokens of a batch."""


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
    """[d_vocab] float64 on the CPU, at the prompt's last token; None unless requested."""
    tokens: tuple[int, ...] = ()
    """The answer's token ids."""
    predicted: tuple[int, ...] = ()
    """The most probable token at each position of the answer, even where logits are not finite."""

    @property
    def beginning(self) -> tuple[int, ...]:
        """Beginning of the greedy continuation: the predicted tokens up to the first that differs from the answer."""
        pairs = enumerate(zip(self.tokens, self.predicted, strict=True), start=1)
        return self.predicted[: next((n for n, (token, predicted) in pairs if token != predicted), None)]


def score_answers(
    model: LanguageModel,
    pairs: Iterable[tuple[str, str]],
    *,
    keep_next: Collection[tuple[str, str]] = (),
    tick: Callable[[int], None] = lambda _: None,
) -> dict[tuple[str, str], Forced]:
    """The reading of each distinct (prompt, answer), in few batched forwards.

    Args:
        keep_next: pairs whose next-token distribution at the prompt's end is kept.
        tick: called with the number of pairs after each forward; may raise to stop.

    Raises:
        ValueError: if a prompt or answer is empty, or both together are longer than the context.
    """
    return score_joined(
        model, {pair: join(model, *pair) for pair in dict.fromkeys(pairs)}, keep_next=keep_next, tick=tick
    )


def score_joined(
    model: LanguageModel,
    joined: Mapping[T, tuple[list[int], int]],
    *,
    keep_next: Collection[T] = (),
    tick: Callable[[int], None] = lambda _: None,
) -> dict[T, Forced]:
    """As `score_answers`, for token ids; the integer is the prompt's length."""
    questions = {key: (tuple(ids), n_prompt, key in keep_next) for key, (ids, n_prompt) in joined.items()}
    scores = answers(model, questions.values(), lambda new: score(model, new, tick), tick)
    return {key: scores[question] for key, question in questions.items()}


Question = tuple[tuple[int, ...], int, bool]
"""Token ids of a prompt and an answer, the prompt's length, and whether to keep the next-token distribution."""


def score(model: LanguageModel, questions: Sequence[Question], tick: Callable[[int], None]) -> dict[Question, Forced]:
    """The readings, batch by batch."""
    scores: dict[Question, Forced] = {}
    lengths = {question: len(model.behind_prefix(question[0])[0]) for question in questions}
    reads = {(ids, n_prompt, keep): len(ids) - n_prompt for ids, n_prompt, keep in questions}
    for chunk in batches(questions, lengths, reads, model.d_vocab):
        # an edited model may decide by the prompt whether its edit applies, and must not see the answer then
        prompt_lengths = [n_prompt for _, n_prompt, _ in chunk]
        places = [range(n_prompt - 1, len(ids) - 1) for ids, n_prompt, _ in chunk]
        read = model.logits_where([ids for ids, _, _ in chunk], places, prompt_lengths)
        for question, logits in zip(chunk, read, strict=True):
            scores[question] = reading(logits, *question)
        tick(len(chunk))
    return scores


def batches(items: Iterable[T], lengths: Mapping[T, int], reads: Mapping[T, int], d_vocab: int) -> Iterator[list[T]]:
    """Items by rising length, in batches whose rows are at most SPREAD times as long as the shortest, of at most
    MAX_TOKENS tokens, and whose logits fit MAX_LOGITS.

    Args:
        lengths: tokens of an item as they are read.
        reads: places of it whose logits are read.
    """
    batch: list[T] = []
    places = 0
    for item in sorted(items, key=lengths.__getitem__):
        places += reads[item]
        too_long = batch and lengths[item] > SPREAD * lengths[batch[0]]
        if too_long or (len(batch) + 1) * lengths[item] > MAX_TOKENS or places * d_vocab > MAX_LOGITS:
            yield from [batch] if batch else []
            batch, places = [], reads[item]
        batch.append(item)
    yield from [batch] if batch else []


def reading(logits: torch.Tensor, ids: Sequence[int], n_prompt: int, keep_next: bool) -> Forced:
    """`logits` [answer token, d_vocab], each of the position before; the other arguments as in `Question`."""
    log_probs = logits.double().log_softmax(-1)
    answer = torch.tensor(ids[n_prompt:], device=log_probs.device)
    tokens, predicted = tuple(ids[n_prompt:]), tuple(logits.argmax(-1).tolist())
    if not bool(torch.isfinite(log_probs).all()):
        return Forced(None, None, None, None, tokens=tokens, predicted=predicted)
    of_answer = log_probs.gather(-1, answer[:, None])[:, 0]
    correct = log_probs.argmax(-1) == answer
    return Forced(
        nll=-float(of_answer.mean()),
        probability=math.exp(float(of_answer.sum())),
        token_accuracy=float(correct.double().mean()),
        rank=int((log_probs[0] > of_answer[0]).sum()) + 1,
        next_log_probs=log_probs[0].cpu() if keep_next else None,
        tokens=tokens,
        predicted=predicted,
    )


def token_ids(model: LanguageModel, texts: Sequence[str], max_positions: int | None = None) -> list[list[int]]:
    """Token ids of texts for perplexity, cut at `max_positions` or the context's length."""
    longest = model.max_positions if max_positions is None else max_positions
    return [model.tokenize(text[:MAX_PROMPT_CHARACTERS])[:longest] for text in texts]
