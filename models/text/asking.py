"""How a prompt is given to a model: unchanged, or in the user's turn of the tokenizer's chat template.

Tracing, editing and scoring all use `LanguageModel.encode`, `models.join` and `models.subject_span`, which take a
prompt's text from `wording`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from facts.words import without_trailing_blank


@dataclass(frozen=True)
class Wording:
    """A prompt as the model reads it."""

    text: str
    """What is tokenised, up to the place where the answer begins."""
    start: int
    """Where the prompt's own words begin in it, in characters."""
    dropped: int
    """Characters left out at the prompt's beginning: a start token written by hand."""
    notes: tuple[str, ...] = ()
    """What was left out, a sentence each."""

    def place(self, offset: int) -> int:
        """Position in the text of a character of the prompt."""
        return offset - self.dropped + self.start


def wording(tokenizer: Any, prompt: str, *, chat: bool, starts: bool) -> Wording:
    """The text that is given to the model for a prompt.

    Spaces at the prompt's end are left out, and so is a start token written by hand if the tokenizer adds one.

    Args:
        chat: put the prompt in the user's turn of the chat template; the answer begins the model's turn.
        starts: whether the tokenizer puts a start token before every text.

    Raises:
        ValueError: if there is no chat template, or it does not hold the prompt letter by letter.
    """
    words, dropped, notes = without_trailing_blank(prompt), 0, []
    if len(words) < len(prompt):
        notes.append("The blank at the prompt's end was left out: the answer's first token brings its own.")
    begin = tokenizer.bos_token
    while begin and (starts or chat) and words.startswith(begin):
        words, dropped = words[len(begin) :], dropped + len(begin)
    if dropped:
        notes.append(f"{begin} at the prompt's start was left out: the tokenizer puts it there itself.")
    if not chat or not words:
        return Wording(words, 0, dropped, tuple(notes))
    before = len(words) - len(words.lstrip())
    words, dropped = words.strip(), dropped + before
    text = _in_template(tokenizer, words)
    start = text.find(words, len(_head(tokenizer)))
    if start < 0:
        raise ValueError(
            f"the chat template of the model does not hold the prompt {prompt!r} as it is; ask without chat"
        )
    return Wording(text, start, dropped, tuple(notes))


def _head(tokenizer: Any) -> str:
    """The template's text before the user's words: the common beginning of two prompts without a common letter."""
    first, other = _in_template(tokenizer, "a"), _in_template(tokenizer, "1")
    n = next((i for i, (x, y) in enumerate(zip(first, other, strict=False)) if x != y), 0)
    return first[:n]


def _in_template(tokenizer: Any, words: str) -> str:
    """The conversation with one user turn, up to where the model's begins."""
    if not tokenizer.chat_template:
        raise ValueError("the model has no chat template, so it cannot be asked in one; ask without chat")
    try:
        # reasoning models are asked for the answer without their reasoning
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the model's chat template cannot be used ({str(error)[:120]}); ask without chat") from None
