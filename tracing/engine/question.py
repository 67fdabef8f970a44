"""A prompt and its answer in tokens, and the readings of their logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facts import Fact
from models import LanguageModel, join, own_answer, subject_span, target_ids
from tracing.measures import Measure

QUANTITIES = ("log_probability", "logit_difference", "kl", "rank")
"""The last axis of `Question.read`: its values for every token of the answer."""
CPU_LOGITS = 2**20
"""Logits read at once on a CPU: 4 MiB, which fit into its caches."""


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt and its answer in tokens."""

    ids: tuple[int, ...]
    """Prompt and answer without the answer's last token, from which nothing is predicted."""
    n_prompt: int
    answer_ids: tuple[int, ...]
    subject: range
    """Token positions of the subject."""

    @property
    def n_answer(self) -> int:
        """Tokens of the answer; the last so many positions of `ids` predict them."""
        return len(self.answer_ids)

    def read(self, logits: Tensor, clean: Tensor, other: int | None) -> Tensor:
        """[row, answer, quantity] float32 of [row, answer, d_vocab] logits, in the order of `QUANTITIES`.

        One pass over the vocabulary for the normaliser, one for the rank and a product with the clean distribution p:
        KL(p || q) = sum p log p - sum p z + log sum exp z.  No softmax is ever stored.  On a CPU the rows go in parts
        that its caches hold through all passes, in a third of the time that the whole takes.

        Args:
            clean: [answer, d_vocab], logits of the clean run.
            other: first token of another answer; without one there is no logit difference (NaN).
        """
        log_p = torch.log_softmax(clean.float(), -1)
        rows = max(1, CPU_LOGITS // log_p.numel()) if logits.device.type == "cpu" else len(logits)
        return torch.cat([self._read(part, log_p, other) for part in logits.split(max(1, rows))])

    def _read(self, logits: Tensor, log_p: Tensor, other: int | None) -> Tensor:
        """`read` of some rows, given the clean distribution's logarithm [answer, d_vocab]."""
        logits, p = logits.float(), log_p.exp()
        answer = torch.tensor(self.answer_ids, device=logits.device)
        chosen = logits.gather(2, answer.expand(len(logits), -1)[..., None])[..., 0]
        normaliser = torch.logsumexp(logits, -1)
        expected = torch.stack([logits[:, token] @ p[token] for token in range(len(answer))], 1)
        kl = (p * log_p).sum(-1) - expected + normaliser
        # counted in float32: a sum of booleans takes longer than all the rest
        rank = torch.gt(logits, chosen[..., None], out=torch.empty_like(logits)).sum(-1) + 1
        difference = torch.full_like(chosen, torch.nan)
        if other is not None:
            difference[:, 0] = chosen[:, 0] - logits[:, 0, other]
        return torch.stack([chosen - normaliser, difference, kl.clamp_min(0.0), rank], -1)


def whole_answer(readings: Tensor) -> dict[Measure, Tensor]:
    """Combine [..., answer, quantity] readings into one value [...] per measure.

    Log-probabilities and divergences of the tokens add up, the rank is the worst of them, and the logit difference is
    that of the first token.
    """
    log_probability = readings[..., 0].sum(-1)
    return {
        "probability": log_probability.exp(),
        "log_probability": log_probability,
        "logit_difference": readings[..., 0, 1],
        "kl": readings[..., 2].sum(-1),
        "rank": readings[..., 3].amax(-1),
    }


def ask(model: LanguageModel, fact: Fact) -> Question:
    """The fact's prompt and answer in tokens, the model's greedy next token where the fact names no answer.

    Raises:
        ValueError: if the prompt is empty, does not hold the subject, or is too long for the model with its answer.
    """
    span = subject_span(model, fact.prompt, fact.subject, fact.start)
    if fact.target_true.strip():
        ids, n_prompt = join(model, fact.prompt, fact.target_true)
    else:
        prompt = model.encode(fact.prompt)
        ids, n_prompt = [*prompt, *own_answer(model, fact.prompt)], len(prompt)
    if len(ids) - 1 > model.max_positions:
        raise ValueError(
            f"the prompt and its answer have {len(ids)} tokens, more than the {model.max_positions} "
            f"that {model.name} reads; shorten the prompt"
        )
    return Question(tuple(ids[:-1]), n_prompt, tuple(ids[n_prompt:]), range(span.start, span.stop))


def first_token(model: LanguageModel, prompt: str, question: Question, against: str) -> int:
    """The first token of another answer.

    Raises:
        ValueError: if it is empty or begins as the answer does, so that no logits tell them apart.
    """
    token = target_ids(model, against, prompt)[0]
    if token == question.answer_ids[0]:
        raise ValueError(
            f"the other answer {against!r} begins with the answer's own first token "
            f"{model.token_strings([token])[0]!r}; name one that differs from its start"
        )
    return token
