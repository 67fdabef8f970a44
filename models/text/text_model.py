"""The text side of a model: prompts, tokens and the text of tokens."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from facts.types import MAX_PROMPT_CHARACTERS
from models.text.asking import Wording, wording
from models.text.characters import whole_characters


class TextModel(ABC):
    """What a model does with text before and after a forward."""

    name: str
    """What the user calls it."""
    tokenizer: PreTrainedTokenizerFast
    chat: bool
    """Whether prompts are asked in the tokenizer's chat template; see `as_chat`."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Number of logits at a position; may exceed the tokenizer's vocabulary."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """Longest sequence the model takes, in tokens."""

    @property
    def pad_id(self) -> int:
        """A valid token id for padding; what is computed there is never read."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None and token_id < self.d_vocab:
                return int(token_id)
        return 0

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template, as instruct models do."""
        return bool(self.tokenizer.chat_template)

    def as_chat(self) -> Self:
        """The same model (module, lock and weights), asked in its chat template: prompts stand in the user's turn.

        Its name says so, and with it every result.

        Raises:
            ValueError: if the tokenizer has no chat template.
        """
        if not self.has_chat_template:
            raise ValueError(f"{self.name} has no chat template, so it cannot be asked in one; ask without chat")
        chat = copy.copy(self)
        chat.chat, chat.name = True, f"{self.name} (chat)"
        return chat

    @property
    def starts(self) -> bool:
        """Whether the tokenizer puts its start token before every text."""
        return self.tokenize("a")[:1] == [self.tokenizer.bos_token_id]

    @property
    def lead_ids(self) -> tuple[int, ...]:
        """Token ids before the words of every prompt: the start token, or the chat template up to the user's words."""
        if not self.chat:
            return (self.tokenizer.bos_token_id,) if self.starts else ()
        first, other = self.encode("a"), self.encode("1")
        n = next((i for i, (x, y) in enumerate(zip(first, other, strict=False)) if x != y), 0)
        return tuple(first[:n])

    @property
    def most_characters(self) -> int:
        """Of a text that is tokenised."""
        return max(MAX_PROMPT_CHARACTERS, 16 * self.max_positions)

    def wording(self, prompt: str) -> Wording:
        """The prompt as the model reads it: in the chat template if so, without a blank at its end."""
        return wording(self.tokenizer, prompt, chat=self.chat, starts=self.starts)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt's `wording`, with the special tokens that the tokenizer adds.

        Raises:
            ValueError: if the prompt is empty, broken, or longer than the model's context.
        """
        ids = self.tokenize_worded(self.wording(prompt).text)
        if not ids:
            raise ValueError("the text is empty; write at least one word")
        if len(ids) > self.max_positions:
            raise ValueError(f"the text is {len(ids)} tokens long; {self.name} takes at most {self.max_positions}")
        return ids

    def tokenize_worded(self, text: str) -> list[int]:
        """Token ids of a text that is, or begins with, a `wording`: a chat template has its own start token."""
        return self.tokenize(text, special_tokens=not self.chat)

    def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of a text, which may be empty or longer than the context.

        Raises:
            ValueError: if the text holds a broken character, far too many of them, or a token the model lacks.
        """
        if len(text) > self.most_characters:  # before tokenising: a million characters take seconds
            raise ValueError(f"the text has {len(text)} characters; at most {self.most_characters} are taken")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("the text contains a broken character (a lone surrogate); type it again without it")
        ids: list[int] = self.tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]
        if ids and max(ids) >= self.d_vocab:
            raise ValueError(
                f"the tokenizer gives id {max(ids)}, but {self.name} knows only {self.d_vocab} tokens; "
                "the model folder holds a tokenizer of another model"
            )
        return ids

    def decode(self, ids: Sequence[int] | Tensor, *, special_tokens: bool = False) -> str:
        """The text of some token ids; special tokens are left out unless asked for."""
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False)
        )

    def token_strings(self, ids: Sequence[int] | Tensor) -> list[str]:
        """Each token decoded alone, for display; a leading space is kept.

        A character of several tokens is shown at the first of them, and `CONTINUED` at the others.  Bytes that form no
        character are shown as U+FFFD.
        """
        listed = [int(i) for i in ids]
        strings = []
        for token_id, token in zip(listed, self.tokenizer.convert_ids_to_tokens(listed), strict=True):
            text = self.decode([token_id], special_tokens=True)
            # SentencePiece drops the space of a piece that is decoded alone
            dropped = (token or "").startswith("\u2581")  # None: a padded vocabulary has ids without a token
            strings.append(" " + text if dropped and not text.startswith(" ") else text)
        return whole_characters(strings, lambda start, stop: self.decode(listed[start:stop], special_tokens=True))

    def continuation_text(self, prompt: Sequence[int], continuation: Sequence[int]) -> str:
        """The text a continuation adds: decoded together, since some tokenizers drop a first token's space."""
        before, after = self.decode(prompt), self.decode([*prompt, *continuation])
        return after[len(before) :] if after.startswith(before) else self.decode(continuation)
