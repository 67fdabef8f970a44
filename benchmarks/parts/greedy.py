"""Free-running answers, read from one forward of prompt and answer where that is enough.

A greedy continuation begins with an answer's tokens exactly if each of them is the most probable after those before it,
so one teacher-forced pass over many prompts decides most of them.  The rest, such as an answer spelt in other tokens or
a word that may go on, is generated and decided by `metrics.asking.generation.matches`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from metrics import matches
from metrics.asking.generation import continuations, normalise
from metrics.asking.logprobs import batches
from models import LanguageModel, join, target_ids

BEYOND_ANSWER = 4
"""Tokens generated beyond the answer, so that its end can be seen."""
_ARTICLES = ("the ", "a ", "an ")
_ARTICLE_BEGINNINGS = ("t", "th", "the", "a", "an")


@dataclass(frozen=True)
class Question:
    """A prompt, the answer that counts, and one that would be wrong ("Mexico City" where "Mexico" counts)."""

    prompt: str
    answer: str
    rival: str = ""


@dataclass(frozen=True, eq=False)
class Said:
    """A model's answer to a question."""

    right: bool
    next_log_probs: torch.Tensor | None = None
    """[d_vocab] float32 at the prompt's last token; None unless requested."""


def ask_all(
    model: LanguageModel, questions: Sequence[Question], keep_next: Collection[Question] = ()
) -> dict[Question, Said]:
    """Every question's reading; those too long for the model are left out.

    Args:
        keep_next: questions whose next-token distribution is kept.
    """
    joined = {}
    for question in dict.fromkeys(questions):
        try:
            ids, n_prompt = join(model, question.prompt, question.answer)
        except ValueError:
            continue
        if len(ids) + BEYOND_ANSWER <= model.max_positions:
            joined[question] = ids, n_prompt
    found: dict[Question, Said] = {}
    undecided: list[Question] = []
    lengths = {question: len(ids) for question, (ids, _) in joined.items()}
    reads = {question: len(ids) - n_prompt + 1 for question, (ids, n_prompt) in joined.items()}
    for chunk in batches(joined, lengths, reads, model.d_vocab):
        rows, prompts = zip(*(joined[question] for question in chunk), strict=True)
        # at the prompt's last token and at every token of the answer
        places = [range(n_prompt - 1, len(ids)) for ids, n_prompt in zip(rows, prompts, strict=True)]
        for question, logits in zip(chunk, model.logits_where(rows, places, prompts), strict=True):
            ids, n_prompt = joined[question]
            right = _settled(model, question, ids, n_prompt, logits.argmax(-1).tolist())
            kept = logits[0].double().log_softmax(-1).float() if question in keep_next else None
            found[question] = Said(bool(right), kept)
            if right is None:
                undecided.append(question)
    budgets: dict[str, int] = {}
    for question in undecided:
        answers = (question.answer, question.rival) if question.rival else (question.answer,)
        longest = max(len(target_ids(model, answer)) for answer in answers)
        budgets[question.prompt] = max(budgets.get(question.prompt, 0), longest + BEYOND_ANSWER)
    said = continuations(model, budgets)
    for question in undecided:
        rivals = (question.rival,) if question.rival else ()
        right = matches(said[question.prompt], (question.answer,), rivals)
        found[question] = Said(right, found[question].next_log_probs)
    return found


def _settled(
    model: LanguageModel, question: Question, ids: Sequence[int], n_prompt: int, best: Sequence[int]
) -> bool | None:
    """Whether the free continuation is the answer; None where one pass cannot tell.

    Args:
        best: the most probable token at the prompt's end and after each of the answer's tokens.
    """
    answer = ids[n_prompt:]
    agreed = next((i for i, token in enumerate(answer) if best[i] != token), len(answer))
    said = [*answer[:agreed], best[agreed]]
    if agreed == len(answer) and best[agreed] in model.eos_ids:
        said = said[:-1]
    before, after = model.decode(ids[:n_prompt]), model.decode([*ids[:n_prompt], *said])
    text, wanted = normalise(after.removeprefix(before)), normalise(question.answer).rstrip(".")
    if agreed < len(answer):
        may_begin = wanted.startswith(text) or text.startswith(wanted) or text.startswith(_ARTICLES)
        return None if may_begin or text in _ARTICLE_BEGINNINGS or "\ufffd" in text else False
    longer_rival = bool(question.rival) and normalise(question.rival).startswith(wanted)
    rest = text[len(wanted) :]
    goes_on = bool(rest) and rest[0] not in " .,;:"
    return None if longer_rival or goes_on or not text.startswith(wanted) else True
