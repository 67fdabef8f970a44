"""Words and tokens: subject spans, answers joined to prompts, padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facts.words import blank_before, is_word, occurrences
from models.text.text_model import TextModel


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


def subject_span(model: TextModel, prompt: str, subject: str, at: int | None = None) -> Span:
    """The tokens of `model.encode(prompt)` that hold the subject.

    A token that holds only part of the subject belongs to it.  Positions are found by decoding ever longer
    prefixes, since the character offsets of some tokenizers (Llama 3) are wrong; offsets are used only where
    decoding does not give the prompt back, and then they are checked against what those tokens decode to.

    Args:
        at: character offset of the subject in the prompt (`Fact.start`); by default its first occurrence as a word.

    Raises:
        ValueError: if the subject is empty or does not stand there; if the prompt does not fit.
    """
    start = _offset(prompt, subject, at)
    worded = model.wording(prompt)
    start, stop = worded.place(start), worded.place(start + len(subject))
    text = worded.text
    ids = model.encode(prompt)
    if model.decode(ids, special_tokens=model.chat) == text:
        return _span_by_decoding(model, ids, text[:start], text[:stop])
    return _span_by_offsets(model, ids, text, start, stop)


def _offset(prompt: str, subject: str, at: int | None) -> int:
    if not subject.strip():
        raise ValueError("the subject is empty; copy the words of the prompt that name the thing it is about")
    places = occurrences(prompt, subject)
    if not places:
        raise ValueError(
            f"the subject {subject!r} does not occur in the prompt {prompt!r}; copy it from the prompt letter by letter"
        )
    if at is not None and (at < 0 or not prompt.startswith(subject, at)):
        raise ValueError(f"the subject {subject!r} does not stand at character {at} of the prompt {prompt!r}")
    return places[0] if at is None else at


def _span_by_decoding(model: TextModel, ids: list[int], before: str, through: str) -> Span:
    """The last token that starts at or before the subject, up to the first that ends at or behind it."""
    prefixes = [model.decode(ids[:count], special_tokens=model.chat) for count in range(len(ids) + 1)]
    start = max(count for count, prefix in enumerate(prefixes) if before.startswith(prefix))
    stop = min(count for count, prefix in enumerate(prefixes) if prefix.startswith(through))
    return Span(start, stop)


def _span_by_offsets(model: TextModel, ids: list[int], text: str, start: int, stop: int) -> Span:
    read = model.tokenizer(text, return_offsets_mapping=True, add_special_tokens=not model.chat, verbose=False)
    offsets = read["offset_mapping"]
    inside = [index for index, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    subject = text[start:stop]
    if inside:
        span = Span(inside[0], inside[-1] + 1)
        if _letters(subject) in _letters(model.decode(ids[span.start : span.stop])):
            return span
    raise ValueError(
        f"the tokens of the subject {subject!r} cannot be told in the prompt {text!r}: "
        f"the tokenizer reads it as {model.decode(ids)!r}; write the prompt that way"
    )


def _letters(text: str) -> str:
    """Without case and space, which a tokenizer may have normalised."""
    return "".join(text.casefold().split())


def target_ids(model: TextModel, target: str, prompt: str = "") -> list[int]:
    """Token ids of an answer as it continues a prompt, without special tokens.

    Args:
        prompt: what it follows; without one, a space is put before the answer.

    Raises:
        ValueError: if the answer is empty.
    """
    if not target.strip():
        raise ValueError("the answer is empty; write the word the model should say")
    blank = blank_before(model.wording(prompt).text) if prompt else " "
    # after another word, because some tokenizers add a space at the start of a text
    before = "a" if blank else "("
    first, both = (model.tokenize(text, special_tokens=False) for text in (before, before + blank + target.lstrip()))
    if both[: len(first)] == first and len(both) > len(first):
        return both[len(first) :]
    return model.tokenize(blank + target.lstrip(), special_tokens=False)


def join(model: TextModel, prompt: str, target: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and the number of prompt tokens.

    A space goes between them if the script uses spaces (`facts.words.blank_before`).  Both are tokenised together if
    that leaves the prompt's tokens unchanged, else separately.  The logits at positions
    `n_prompt - 1` to `len(ids) - 2` predict the answer.

    Raises:
        ValueError: if either is empty or without tokens, or both together are longer than the model's context.
    """
    answer = target_ids(model, target, prompt)
    if not answer:
        raise ValueError(f"the answer {target!r} has no tokens in {model.name}; write it in words the tokenizer knows")
    alone = model.encode(prompt)
    together = tokens_together(model, prompt, target)
    if together[: len(alone)] != alone or len(together) == len(alone):
        together = alone + answer
    if len(together) > model.max_positions:
        raise ValueError(
            f"prompt and answer are {len(together)} tokens long; {model.name} takes at most {model.max_positions}"
        )
    return together, len(alone)


def notes_on(model: TextModel, prompt: str, subject: str, at: int) -> tuple[str, ...]:
    """Notes on how a prompt is given to the model, one sentence each: what was left out, which subject is meant.

    Args:
        at: character offset of the subject in the prompt.
    """
    notes = list(model.wording(prompt).notes)
    places = occurrences(prompt, subject)
    if len(places) > 1 and at in places:
        notes.append(
            f"The subject {subject!r} stands {len(places)} times in the prompt; number {places.index(at) + 1} is meant."
        )
    if not is_word(prompt, at, at + len(subject)):
        notes.append(f"The subject {subject!r} is part of a longer word of the prompt; give the whole word.")
    if model.has_chat_template and not model.chat:
        notes.append(
            f"{model.name} is an instruct model and was asked without its chat template; with the chat template the "
            "prompt is the user's turn."
        )
    return tuple(notes)


def tokens_together(model: TextModel, prompt: str, target: str) -> list[int]:
    """Token ids of prompt and answer tokenised as one text, even if that changes the prompt's last token."""
    text = model.wording(prompt).text
    return model.tokenize_worded(f"{text}{blank_before(text)}{target.lstrip()}")


def fits(model: TextModel, prompt: str, target: str) -> bool:
    """Whether the model takes the prompt together with the answer."""
    try:
        join(model, prompt, target)
    except ValueError:
        return False
    return True


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids on the right.

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
