"""A model whose every next-word distribution is written down, for tests that need to know the right number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import RLock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from facts.words import blank_before
from models import Sampling
from models.text.asking import Wording, wording

END = "<end>"


class KnownModel:
    """Answers `logits` and `generate` from a table {prefix text: {next word: probability}}.

    Words are split at spaces.  What the table leaves of the probability is spread evenly over the other words; a prefix
    that is not in the table gives the uniform distribution, in which the first word of the vocabulary (END) is greedy.
    """

    name = "known"
    pad_id = 0
    eos_ids = frozenset({0})
    chat = False
    plain = packable = False

    def __init__(self, words: Sequence[str], table: Mapping[str, Mapping[str, float]], max_positions: int = 32) -> None:
        self.vocabulary = {word: index for index, word in enumerate([END, "<unk>", *words])}
        tokenizer = Tokenizer(models.WordLevel(self.vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>")
        self.d_vocab, self.max_positions = len(self.vocabulary), max_positions
        self.device, self.dtype, self.lock = torch.device("cpu"), torch.float32, RLock()
        self.table = {tuple(self.encode(prefix)): self._log_probs(entry) for prefix, entry in table.items()}
        self.uniform = self._log_probs({})
        self.module = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(self.module.weight)
        torch.nn.init.zeros_(self.module.bias)
        self.revision = hashlib.sha256(repr(sorted(table)).encode()).hexdigest()

    def _log_probs(self, entry: Mapping[str, float]) -> torch.Tensor:
        rest = (1 - sum(entry.values())) / (self.d_vocab - len(entry))
        return torch.tensor([entry.get(word, rest) for word in self.vocabulary]).log()

    @property
    def bare(self) -> KnownModel:
        return self

    def behind_prefix(self, row: Sequence[int]) -> tuple[list[int], int]:
        return list(row), 0

    def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special_tokens)["input_ids"]
        return ids

    def tokenize_worded(self, text: str) -> list[int]:
        return self.tokenize(text)

    def wording(self, prompt: str) -> Wording:
        """A script without blanks ends its line, since the tokenizer here splits at white space."""
        asked = wording(self.tokenizer, prompt, chat=False, starts=False)
        return asked if blank_before(asked.text) else replace(asked, text=f"{asked.text}\n")

    def encode(self, text: str) -> list[int]:
        ids = self.tokenize(text)
        if not ids or len(ids) > self.max_positions:
            raise ValueError(f"{text!r} has {len(ids)} tokens; expected 1 to {self.max_positions}")
        return ids

    def logits(
        self,
        input_ids: torch.Tensor,
        lengths: Sequence[int] | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        assert input_ids.shape[1] <= self.max_positions
        rows = [
            [self.table.get(tuple(row[: end + 1]), self.uniform) for end in range(len(row))]
            for row in input_ids.tolist()
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def logits_where(
        self,
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int] | None = None,
    ) -> list[torch.Tensor]:
        return [self.logits(torch.tensor([row]))[0, list(some)] for row, some in zip(rows, places, strict=True)]

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        rows = [self.encode(prompt) for prompt in prompts]
        continued = self.continuations(rows, max_new_tokens)
        return [self.continuation_text(row, ids) for row, ids in zip(rows, continued, strict=True)]

    def continuations(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, begun: Sequence[Sequence[int]] | None = None
    ) -> list[list[int]]:
        found = []
        for row, first in zip(rows, begun or [[] for _ in rows], strict=True):
            ids = [*row, *first]
            while len(ids) < min(len(row) + max_new_tokens, self.max_positions):
                best = self._best(ids)
                if best == self.pad_id:
                    break
                ids.append(best)
            found.append(ids[len(row) :])
        return found

    def draw(self, prompts: Sequence[str], length: int, sampling: Sampling) -> list[str]:
        """No draw at all: the greedy words, past END."""
        texts = []
        for prompt in prompts:
            row = self.encode(prompt)
            ids = list(row)
            while len(ids) < min(length, self.max_positions):
                ids.append(self._best(ids))
            texts.append(self.continuation_text(row, ids[len(row) :]))
        return texts

    def continuation_text(self, prompt: Sequence[int], continuation: Sequence[int]) -> str:
        words = list(self.vocabulary)
        return "".join(f" {words[index]}" for index in continuation if words[index] != END)

    def _best(self, ids: Sequence[int]) -> int:
        return int(self.table.get(tuple(ids), self.uniform).argmax())
