"""How the model reads a prompt and answers it, before anything is traced: the first thing that the page asks of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from app.probes import find_fact
from models import LanguageModel, join, notes_on, own_answer, subject_span

SURE = 0.1
"""Below this probability of the true answer, the model does not know it."""
SURE_OF_ITSELF = 0.5
"""Below this probability of its own answer, the model is not sure, if no true answer is given."""
SHOWN_ANSWERS = 5


@dataclass(frozen=True)
class FirstLook:
    """How the model reads a prompt and answers it, before anything is traced."""

    tokens: tuple[str, ...]
    span: tuple[int, int]
    """Half-open token positions of the subject."""
    top: tuple[tuple[str, float], ...]
    """The most probable next tokens."""
    answer: str
    """The true answer, given or the atlas's; else the model's own."""
    own: bool
    """Whether `answer` is the model's own, because no true answer is known."""
    p_answer: float
    """Probability of the whole answer."""
    rank: int
    """Of its least expected token, behind those before it; 1: the model says the answer, greedily."""
    knows: bool
    """Whether the model says the true answer with at least `SURE`; False where `own`."""
    notes: tuple[str, ...] = ()
    """Remarks on the way the prompt was asked (`models.notes_on`)."""
    lead: int = 0
    """Tokens of a chat template before the prompt's own words."""


def look(model: LanguageModel, prompt: str, subject: str, answer: str = "", *, occurrence: int = 0) -> FirstLook:
    """Tokens, subject and answer of a prompt: one forward pass, a few where the answer's character has several tokens.

    Args:
        occurrence: which occurrence of the subject in the prompt is meant, counted from 0.

    Raises:
        ValueError: if the prompt is empty, too long for the model, or does not hold the subject.
    """
    fact = find_fact(prompt, subject, answer, occurrence)
    span = subject_span(model, fact.prompt, subject, fact.start)
    ids = model.encode(prompt)
    probabilities = model.logits_where([ids], [[len(ids) - 1]])[0][0].softmax(-1).cpu()
    best = probabilities.topk(min(SHOWN_ANSWERS, len(probabilities)))
    top = tuple(
        (model.token_strings([token])[0], p)
        for p, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    own = own_answer(model, prompt)
    top = ((model.token_strings(own)[0], top[0][1]), *top[1:])
    p_answer, rank = (
        _weighed(model, prompt, fact.target_true) if fact.target_true else (float(probabilities[own[0]]), 1)
    )
    return FirstLook(
        tokens=tuple(model.token_strings(ids)),
        span=(span.start, span.stop),
        top=top,
        answer=fact.target_true or top[0][0].strip(),
        own=not fact.target_true,
        p_answer=p_answer,
        rank=rank,
        knows=bool(fact.target_true) and rank == 1 and p_answer >= SURE,
        notes=notes_on(model, prompt, subject, fact.start),
        lead=len(model.lead_ids) if model.chat else 0,
    )


def _weighed(model: LanguageModel, prompt: str, answer: str) -> tuple[float, int]:
    """Probability of the whole answer, and the rank of its least expected token."""
    ids, n_prompt = join(model, prompt, answer)
    (logits,) = model.logits_where([ids], [range(n_prompt - 1, len(ids) - 1)])
    log_probs = logits.double().log_softmax(-1)
    of_answer = log_probs.gather(-1, torch.tensor(ids[n_prompt:], device=log_probs.device)[:, None])
    return math.exp(float(of_answer.sum())), 1 + int((log_probs > of_answer).sum(-1).max())
