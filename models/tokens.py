"""Where words sit among tokens: subject spans, targets joined to prompts, padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.language_model import LanguageModel


@dataclass(frozen=True)
class Span:
    """Token positions `start` up to but not including `stop`.

    Raises:
        ValueError: if it is empty or begins before position 0.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"the span {self.start}:{self.stop} holds no token; expected 0 <= start < stop")

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def last(self) -> int:
        """Position of the last token."""
        return self.stop - 1


def count_occurrences(prompt: str, subject: str) -> int:
    """How often the subject stands in the prompt, letter by letter, without overlaps."""
    return prompt.count(subject) if subject else 0


def subject_span(model: LanguageModel, prompt: str, subject: str, occurrence: int = 0) -> Span:
    """The tokens of `model.encode(prompt)` that hold the subject.

    A token that holds only part of the subject belongs to it.  Positions are found by decoding ever longer
    prefixes, since the character offsets of some tokenizers (Llama 3) are wrong; offsets are used only where
    decoding does not give the prompt back, and then they are checked against what those tokens decode to.

    Args:
        occurrence: which one, counted from 0, where the subject stands there more than once.

    Raises:
        ValueError: if the subject is empty, absent, or there are fewer occurrences; if the prompt does not fit.
    """
    start, stop = _character_range(prompt, subject, occurrence)
    ids = model.encode(prompt)
    if model.decode(ids) == prompt:
        return _span_by_decoding(model, ids, prompt[:start], prompt[:stop])
    return _span_by_offsets(model, ids, prompt, start, stop)


def _character_range(prompt: str, subject: str, occurrence: int) -> tuple[int, int]:
    if not subject.strip():
        raise ValueError("the subject is empty; copy the words of the prompt that name the thing it is about")
    found = count_occurrences(prompt, subject)
    if found == 0:
        raise ValueError(
            f"the subject {subject!r} does not occur in the prompt {prompt!r}; copy it from the prompt letter by letter"
        )
    if not 0 <= occurrence < found:
        raise ValueError(
            f"occurrence {occurrence} of the subject {subject!r} was asked for, but the prompt {prompt!r} holds "
            f"{found}, counted from 0"
        )
    start = -len(subject)
    for _ in range(occurrence + 1):
        start = prompt.index(subject, start + len(subject) if start >= 0 else 0)
    return start, start + len(subject)


def _span_by_decoding(model: LanguageModel, ids: list[int], before: str, through: str) -> Span:
    """The last token that starts at or before the subject, up to the first that ends at or behind it."""
    prefixes = [model.decode(ids[:count]) for count in range(len(ids) + 1)]
    start = max(count for count, prefix in enumerate(prefixes) if before.startswith(prefix))
    stop = min(count for count, prefix in enumerate(prefixes) if prefix.startswith(through))
    return Span(start, stop)


def _span_by_offsets(model: LanguageModel, ids: list[int], prompt: str, start: int, stop: int) -> Span:
    offsets = model.tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    inside = [index for index, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    subject = prompt[start:stop]
    if inside:
        span = Span(inside[0], inside[-1] + 1)
        if _letters(subject) in _letters(model.decode(ids[span.start : span.stop])):
            return span
    raise ValueError(
        f"the tokens of the subject {subject!r} cannot be told in the prompt {prompt!r}: "
        f"the tokenizer reads it as {model.decode(ids)!r}; write the prompt that way"
    )


def _letters(text: str) -> str:
    """Without case and space, which a tokenizer may have normalised."""
    return "".join(text.casefold().split())


def target_ids(model: LanguageModel, target: str) -> list[int]:
    """Token ids of an answer as it continues a text: with a space before it, without special tokens.

    Raises:
        ValueError: if the answer is empty.
    """
    if not target.strip():
        raise ValueError("the answer is empty; write the word the model should say")
    # behind a word, because some tokenizers put a space of their own at the start of a text
    word, both = (model.tokenize(text, special_tokens=False) for text in ("a", f"a {target.lstrip()}"))
    if both[: len(word)] == word:
        return both[len(word) :]
    return model.tokenize(f" {target.lstrip()}", special_tokens=False)


def join(model: LanguageModel, prompt: str, target: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer with a space between, and the number of those that are the prompt's.

    They are tokenised together where that leaves the prompt's own tokens as they are, else one after the
    other.  The logits at positions `n_prompt - 1` to `len(ids) - 2` predict the answer.

    Raises:
        ValueError: if either is empty or without tokens, or both together are longer than the model's context.
    """
    answer = target_ids(model, target)
    if not answer:
        raise ValueError(f"the answer {target!r} has no tokens in {model.name}; write it in words the tokenizer knows")
    alone = model.encode(prompt)
    together = model.tokenize(f"{prompt} {target.lstrip()}")
    if together[: len(alone)] != alone or len(together) == len(alone):
        together = alone + answer
    if len(together) > model.max_positions:
        raise ValueError(
            f"prompt and answer are {len(together)} tokens long; {model.name} takes at most {model.max_positions}"
        )
    return together, len(alone)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids filled up on the right.

    Returns:
        [batch, pos] ids and [batch] lengths in tokens, both int64 on the CPU.

    Raises:
        ValueError: if there is no row, or an empty one.
    """
    if not rows or not all(rows):
        raise ValueError("there is no token to run; expected at least one row of at least one token")
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *([pad_id] * (longest - len(row)))] for row in rows])
    return ids, torch.tensor([len(row) for row in rows])
