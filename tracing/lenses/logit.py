"""Logit lens: every state read through the model's own final norm and head.  nostalgebraist 2020.

    lens(h_t^l) = softmax(W_U norm(h_t^l))

`h_t^l` is the block output of layer l at token t (resid_post); at the last layer this is the model's own prediction
("interpreting GPT: the logit lens", LessWrong 2020; Geva et al. 2022, arXiv:2203.14680, for what MLPs add in these
coordinates).  The states are put in the last block's place and the model's own code does the rest, so a family's norm,
scaling and capping of logits are all its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from models import LanguageModel, run, target_ids
from tracing.engine.question import ask
from tracing.storage import Stored

Translate = Callable[[int, Tensor], Tensor]
"""(layer, states [pos, d_model]) to the states that are read instead."""
LOGITS_AT_ONCE = 2**26  # numbers, a quarter of a gigabyte
FIXED_BATCH = frozenset({"gpt_bigcode"})
"""Families whose forward gives its result the shape of its input, so that rows cannot be added."""


@dataclass(frozen=True, eq=False)
class LensResult(Stored):
    """Readings of every state: the followed words' probabilities and the most probable tokens.

    A lens reads one token ahead: a word of several tokens is followed by its first.  Between one prompt position and
    the next only the last position's prediction is about the answer; the others show where its word comes up.
    """

    KIND: ClassVar[str] = "engram-lens-1"

    lens: str
    """"logit" or "tuned"."""
    model_name: str
    revision: str
    prompt: str
    tokens: tuple[str, ...]
    """The prompt's tokens as text, a leading space kept."""
    subject_span: tuple[int, int]
    """Half-open token positions of the subject."""
    words: tuple[str, ...]
    """The answer, then the target if there is one."""
    word_ids: tuple[int, ...]
    """The first token of each."""
    top_words: tuple[tuple[tuple[str, ...], ...], ...]
    """[pos][layer][k], the most probable next tokens as text, the first the most probable."""
    log_prob: NDArray[np.float32]
    """[word, pos, layer], natural logarithm of the lens's probability."""
    rank: NDArray[np.int32]
    """[word, pos, layer], 1 for the most probable token of the vocabulary."""
    top_prob: NDArray[np.float32]
    """[pos, layer, k], probabilities of `top_words`."""

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.log_prob.shape[2])

    def probability(self, word: int = 0) -> NDArray[np.float32]:
        """[pos, layer], the lens's probability of a followed word: 0 is the answer, 1 the target."""
        return np.exp(self.log_prob[word])

    def difference(self) -> NDArray[np.float32]:
        """[pos, layer], log-probability of the answer minus that of the target, which is their logit difference.

        Raises:
            ValueError: if no target was followed.
        """
        if len(self.words) < 2:
            raise ValueError("only the answer was followed; name a target to compare it with")
        return self.log_prob[0] - self.log_prob[1]

    def to_frame(self) -> pd.DataFrame:
        """One row per cell and followed word: position, token, layer, word, probability, log_prob, rank, top."""
        n_words, n_pos, n_layers = self.log_prob.shape
        word, pos, layer = (axis.ravel() for axis in np.indices((n_words, n_pos, n_layers)))
        return pd.DataFrame(
            {
                "position": pos,
                "token": [self.tokens[index] for index in pos],
                "layer": layer,
                "lens": self.lens,
                "word": [self.words[index] for index in word],
                "probability": np.exp(self.log_prob).ravel(),
                "log_prob": self.log_prob.ravel(),
                "rank": self.rank.ravel(),
                "top": [self.top_words[at][depth][0] for at, depth in zip(pos, layer, strict=True)],
            }
        )


def logit_lens(model: LanguageModel, fact: Fact, *, target: str = "", top_k: int = 5) -> LensResult:
    """Read every state of the clean prompt.

    Args:
        fact: its answer is followed; an empty one asks for the model's own next token.
        target: another word to follow, such as the answer an edit should give.
        top_k: predictions kept at every cell.

    Raises:
        ValueError: if the prompt does not fit the model, the subject is not in it, or `top_k` is out of range.
    """
    return read_states(model, fact, "logit", lambda _, states: states, target=target, top_k=top_k)


def read_states(
    model: LanguageModel, fact: Fact, lens: str, translate: Translate, *, target: str, top_k: int
) -> LensResult:
    """Any lens: `translate` says what is read in place of a layer's states; the last layer is read as it is."""
    if not 1 <= top_k <= model.d_vocab:
        raise ValueError(f"top_k is {top_k}; expected 1 to {model.d_vocab}, the tokens of the vocabulary")
    question = ask(model, fact)
    ids = question.ids[: question.n_prompt]
    answer = fact.target_true.strip() or model.token_strings(question.answer_ids)[0]
    words, word_ids = [answer.strip() or answer], [question.answer_ids[0]]
    if target.strip():
        words.append(target.strip())
        word_ids.append(target_ids(model, target, fact.prompt)[0])
    last = model.n_layers - 1
    row = torch.tensor([ids], device=model.device)
    captured = run(model, row, captures=[("resid_post", layer) for layer in range(model.n_layers)]).captured
    final = captured["resid_post", last][0]
    read = [translate(layer, captured["resid_post", layer][0]).to(final.device) for layer in range(last)]
    states = torch.stack([*read, final])  # on one device, wherever a spread model keeps its layers
    at_once = max(1, LOGITS_AT_ONCE // (len(ids) * model.d_vocab))
    followed, ranks, tops, top_ids = [], [], [], []
    for part in states.split(at_once):
        log_prob = torch.log_softmax(head(model, ids, part), -1)
        chosen = log_prob[..., word_ids]
        followed.append(chosen)
        ranks.append((log_prob[..., None, :] > chosen[..., None]).sum(-1) + 1)
        top = log_prob.topk(top_k)
        tops.append(top.values.exp())
        top_ids.append(top.indices)
    return LensResult(
        lens=lens,
        model_name=model.name,
        revision=model.revision,
        prompt=fact.prompt,
        tokens=tuple(model.token_strings(ids)),
        subject_span=(question.subject.start, question.subject.stop),
        words=tuple(words),
        word_ids=tuple(word_ids),
        top_words=_texts(model, torch.cat(top_ids).transpose(0, 1)),
        log_prob=torch.cat(followed).permute(2, 1, 0).cpu().numpy(),
        rank=torch.cat(ranks).permute(2, 1, 0).to(torch.int32).cpu().numpy(),
        top_prob=torch.cat(tops).transpose(0, 1).cpu().numpy(),
    )


def head(model: LanguageModel, ids: Sequence[int], states: Tensor) -> Tensor:
    """[row, pos, d_vocab] float32 logits of states [row, pos, d_model] standing in for the last block's output."""
    n_rows = len(states) if model.architecture.family in FIXED_BATCH else 1
    dummy = torch.tensor([list(ids)] * n_rows, device=model.device)
    return run(model, dummy, patches={("resid_post", model.n_layers - 1): lambda _: states}).logits


def _texts(model: LanguageModel, ids: Tensor) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """[pos][layer][k] as text, every token decoded once."""
    distinct = sorted(set(ids.ravel().tolist()))
    text = dict(zip(distinct, model.token_strings(distinct), strict=True))
    return tuple(tuple(tuple(text[token] for token in cell) for cell in row) for row in ids.tolist())
