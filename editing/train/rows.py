"""Prompts with answers as padded rows, and low-rank changes that each group of rows sees for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.ops import WeightDelta
from models import LanguageModel, join, pad


@dataclass(frozen=True, eq=False)
class Rows:
    """Prompt + answer rows, padded on the right, with the place of every answer token.

    The last token of each answer is left out of the ids: nothing is read behind it.
    """

    ids: Tensor
    """[row, pos]"""
    lengths: tuple[int, ...]
    """[row], tokens that are no padding."""
    row: Tensor
    """[token], the row of each answer token."""
    pos: Tensor
    """[token], the position whose logits predict it."""
    token: Tensor
    """[token], its id."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.ids.shape[0])

    def only(self, members: Tensor) -> tuple[Rows, Tensor]:
        """The rows of these indices, in that order and no wider than they need, and the index of each of their
        tokens among all tokens."""
        place = torch.full((self.n_rows,), -1, device=members.device)
        place[members] = torch.arange(len(members), device=members.device)
        lengths = tuple(self.lengths[index] for index in members.tolist())
        tokens = (place[self.row] >= 0).nonzero()[:, 0]
        ids = self.ids[members, : max(lengths)]
        return Rows(ids, lengths, place[self.row[tokens]], self.pos[tokens], self.token[tokens]), tokens

    def row_means(self, values: Tensor) -> Tensor:
        """Mean over each row's answer tokens: [token] -> [row]."""
        sums = torch.zeros(self.n_rows, dtype=values.dtype, device=values.device).index_add(0, self.row, values)
        return sums / torch.bincount(self.row, minlength=self.n_rows)

    def nll(self, log_probs: Tensor) -> Tensor:
        """Mean negative log probability of each row's answer tokens, nats: [token, d_vocab] -> [row]."""
        return self.row_means(-log_probs.gather(-1, self.token[:, None])[:, 0])

    def right(self, log_probs: Tensor) -> Tensor:
        """Whether each row's answer is the greedy one, token by token: [token, d_vocab] -> [row] bool."""
        return self.row_means((log_probs.argmax(-1) == self.token).float()) == 1.0


class Encoder:
    """Token ids of (prompt, answer) pairs, each tokenised once."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._joined: dict[tuple[str, str], tuple[list[int], int]] = {}

    def joined(self, prompt: str, answer: str) -> tuple[list[int], int]:
        """(ids of prompt and answer, number of the prompt's); see `models.join`."""
        if (prompt, answer) not in self._joined:
            self._joined[prompt, answer] = join(self._model, prompt, answer)
        return self._joined[prompt, answer]

    def rows(self, pairs: Sequence[tuple[str, str]]) -> Rows:
        """The pairs as rows, in order.

        Raises:
            ValueError: if there is no pair, a prompt or answer is empty, or both together exceed the context.
        """
        joined = [self.joined(prompt, answer) for prompt, answer in pairs]
        ids, lengths = pad([ids[:-1] for ids, _ in joined], self._model.pad_id)
        places = [
            (row, position - 1, ids[position])
            for row, (ids, n_prompt) in enumerate(joined)
            for position in range(n_prompt, len(ids))
        ]
        row, pos, token = torch.tensor(places, device=self._model.device).unbind(-1)
        return Rows(ids.to(self._model.device), tuple(lengths.tolist()), row, pos, token)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one weight for each edit: y += (x colsᵀ) rows, in float32 with gradients."""

    rows: Tensor
    """[edit, rank, d_out]"""
    cols: Tensor
    """[edit, rank, d_in]"""

    def summed(self, n: int) -> LowRank:
        """The sums of each `n` edits that follow one another: rank grows n-fold, edits become n times fewer."""
        edits, rank, _ = self.rows.shape
        return LowRank(
            self.rows.reshape(edits // n, n * rank, -1),
            self.cols.reshape(edits // n, n * rank, -1),
        )


def weight_deltas(changes: Mapping[str, LowRank]) -> tuple[WeightDelta, ...]:
    """The sum over requests of every weight's change; tokens that contribute nothing are left out."""
    deltas = []
    for name, change in changes.items():
        rows = change.rows.reshape(-1, change.rows.shape[-1])
        cols = change.cols.reshape(-1, change.cols.shape[-1])
        used = (rows != 0).any(-1) & (cols != 0).any(-1)
        if not used.any():  # a change that is zero is still a matrix
            used[0] = True
        deltas.append(WeightDelta(name, rows[used].T.contiguous(), cols[used].contiguous()))
    return tuple(deltas)
