"""SERAC's scope classifier: is this prompt about an edit in the memory?

Mitchell et al. 2022, section 3 (arXiv:2206.06520), in its embedding form: s = exp(-|E(a) - E(b)|^2), in (0, 1].  The
paper's E is a second language model; here it is a linear map over what the unedited model itself makes of a prompt, so
that edits cannot move the scope:

    w_h[token] = v_h . tanh(A LayerNorm(emb(token)))             how much a word counts, head by head
    pool_h = sum_t softmax_t(w_h[token_t]) emb(token_t)          the prompt's words
    last                                                         what the head reads at the last token: the answer to be
    E = P [LayerNorm(pool_1), ..., LayerNorm(pool_H), LayerNorm(last)]

The words tell subjects apart, `last` recognises a question in words never seen.  Words count by what their embeddings
say, so that words of a new question are known for what they are.  A name has other tokens at the beginning of a text
than within it, so words are tokenized behind a space.  The prompt alone is read, never an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editing.train.forward import Forward
from editing.train.rows import Rows
from models import LanguageModel, pad

INNER = 32
"""Width between a token's embedding and its weights."""


@dataclass(frozen=True, eq=False)
class Read:
    """Prompts as the classifier sees them, padded on the right."""

    lengths: Tensor
    """[prompt], words' tokens."""
    embedded: Tensor
    """[prompt, pos, d_model], their embeddings."""
    last: Tensor
    """[prompt, d_model], what the head reads at the last token."""


class PromptReader:
    """Reads prompts with an unedited model; what it found at the last token is kept."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._forward = Forward(model)
        self._last: dict[tuple[int, ...], Tensor] = {}

    def read(self, prompts: Sequence[Sequence[int]]) -> Read:
        """Prompts given as token ids; each is run by itself or with others of its length, so that its numbers do not
        depend on padding."""
        keys = [tuple(prompt) for prompt in prompts]
        for length in {len(key) for key in keys}:
            new = [key for key in dict.fromkeys(keys) if len(key) == length and key not in self._last]
            if new:
                self._last |= zip(new, self._states(new), strict=True)
        ids, lengths = pad([self._words(key) for key in keys], self._model.pad_id)
        embedded = self._model.embedding(ids).float()
        last = torch.stack([self._last[key] for key in keys])
        return Read(lengths.to(embedded.device), embedded, last)

    def _words(self, key: tuple[int, ...]) -> list[int]:
        return self._model.tokenize(f" {self._model.decode(key).strip()}", special_tokens=False)

    @torch.no_grad()
    def _states(self, keys: Sequence[tuple[int, ...]]) -> Tensor:
        n, length = len(keys), len(keys[0])
        ids = torch.tensor(keys, device=self._model.device)
        places = torch.full((n,), length - 1, device=ids.device)
        rows = Rows(ids, (length,) * n, torch.arange(n, device=ids.device), places, places)
        return self._forward.read_by_head(rows).float()


class ScopeNetwork(nn.Module):
    """E: prompts as keys.

    Args:
        d_model: of the language model.
        heads: ways of pooling a prompt's words.
        width: of a key.
        seed: of all weights.
    """

    def __init__(self, d_model: int, heads: int = 4, width: int = 128, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = (heads + 1) * d_model
        self.inner = nn.Parameter(torch.randn(d_model, INNER, generator=generator) * d_model**-0.5)
        self.outer = nn.Parameter(torch.randn(INNER, heads, generator=generator) * INNER**-0.5)
        # keys of length about 1, so that scores start neither at 0 nor at 1
        start = (size * width) ** -0.5
        self.projection = nn.Parameter(torch.randn(size, width, generator=generator) * start)

    def forward(self, prompts: Read) -> Tensor:
        """[prompt, width]"""
        width, d_model = prompts.embedded.shape[1:]
        padding = torch.arange(width, device=prompts.lengths.device) >= prompts.lengths[:, None]
        weights = (nn.functional.layer_norm(prompts.embedded, (d_model,)) @ self.inner).tanh() @ self.outer
        weights = weights.masked_fill(padding[..., None], -torch.inf).softmax(1)
        pooled = weights.transpose(1, 2) @ prompts.embedded
        parts = torch.cat([pooled, prompts.last[:, None]], 1)
        keys: Tensor = nn.functional.layer_norm(parts, parts.shape[2:]).flatten(1) @ self.projection
        return keys


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """|a - b|^2 over the last axis; s = exp(-it)."""
    return (first - second).square().sum(-1)


def balanced_bce(distance: Tensor, same: Tensor) -> Tensor:
    """mean over positives of -log s, plus mean over negatives of -log(1 - s): [pair] and [pair] bool -> scalar."""
    apart = distance[~same].clamp_min(1e-6)  # two prompts of the same tokens would give log 0
    return distance[same].mean() - torch.log(-torch.expm1(-apart)).mean()
