"""Scores the slow, obvious way: one prompt at a time, no cache, no batch, plain torch on the Hugging Face module."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from facts import EditRequest
from models import LanguageModel


@dataclass(frozen=True)
class Forced:
    """Of one answer after one prompt."""

    probability: float
    nll: float
    token_accuracy: float
    rank: int


def _logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """[pos, d_vocab]"""
    with torch.no_grad():
        return model.module(input_ids=torch.tensor([ids])).logits[0].double()


def greedy(model: LanguageModel, prompt: str, steps: int) -> str:
    """The whole prefix is run again for every token."""
    ids = model.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(steps):
        best = int(_logits(model, ids)[-1].argmax())
        if best == model.tokenizer.eos_token_id:
            break
        ids = [*ids, best]
    prompt_again = model.tokenizer.decode(ids[:start])
    return model.tokenizer.decode(ids)[len(prompt_again) :]


def forced(model: LanguageModel, prompt: str, answer: str) -> Forced:
    """Token by token, each after a forward of its own."""
    ids = model.tokenizer(prompt)["input_ids"]
    tokens = model.tokenizer(f" {answer}")["input_ids"]
    total, correct, rank = 0.0, 0, 0
    for index, token in enumerate(tokens):
        probabilities = torch.softmax(_logits(model, ids)[-1], -1)
        total += math.log(float(probabilities[token]))
        correct += int(probabilities.argmax()) == token
        if index == 0:
            rank = sorted(probabilities.tolist(), reverse=True).index(float(probabilities[token])) + 1
        ids = [*ids, token]
    return Forced(math.exp(total), -total / len(tokens), correct / len(tokens), rank)


def divergence(before: LanguageModel, after: LanguageModel, prompt: str) -> float:
    """KL(before || after) at the prompt's end, nats."""
    ids = before.tokenizer(prompt)["input_ids"]
    p, q = (torch.softmax(_logits(model, ids)[-1], -1).tolist() for model in (before, after))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def perplexity(model: LanguageModel, texts: list[str]) -> float:
    """exp of the mean over all predicted tokens."""
    terms = []
    for text in texts:
        ids = model.tokenizer(text)["input_ids"]
        probabilities = torch.softmax(_logits(model, ids), -1)
        terms += [math.log(float(probabilities[index, ids[index + 1]])) for index in range(len(ids) - 1)]
    return math.exp(-sum(terms) / len(terms))


def gives(continuation: str, answer: str) -> bool:
    """ASCII answers only: the answer first, then no letter or digit."""
    return re.match(rf"\s*{re.escape(answer)}(?![0-9A-Za-z])", continuation, re.IGNORECASE) is not None


def summary(base: LanguageModel, edited: LanguageModel, request: EditRequest, steps: int) -> dict[str, Any]:
    """Some headline and comparison scores, by score name."""
    new, true = request.target_new, request.fact.target_true
    paraphrases = [probe.prompt for probe in request.of_kind("paraphrase")]
    neighbors = [(probe.prompt, probe.answer) for probe in request.of_kind("neighborhood")]
    known = [pair for pair in neighbors if gives(greedy(base, pair[0], steps), pair[1])]
    aliases = [
        probe.prompt
        for probe in request.of_kind("alias")
        if all(gives(greedy(base, prompt, steps), answer) for prompt, answer in probe.bridge)
    ]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    def says(model: LanguageModel, pairs: list[tuple[str, str]]) -> float | None:
        return mean([float(gives(greedy(model, prompt, steps), answer)) for prompt, answer in pairs])

    def prefers(model: LanguageModel, pairs: list[tuple[str, str, str]]) -> float | None:
        return mean([float(forced(model, p, right).nll < forced(model, p, wrong).nll) for p, right, wrong in pairs])

    def both(score: Any, pairs: list[Any]) -> tuple[float | None, float | None]:
        return score(base, pairs), score(edited, pairs)

    return {
        "reliability.greedy": both(says, [(request.fact.prompt, new)]),
        "reliability.comparison": both(prefers, [(request.fact.prompt, new, true)]),
        "generalization.greedy": both(says, [(prompt, new) for prompt in paraphrases]),
        "generalization.comparison": both(prefers, [(prompt, new, true) for prompt in paraphrases]),
        "locality.greedy": both(says, known),
        "locality.comparison": both(prefers, [(prompt, answer, new) for prompt, answer in neighbors]),
        "portability.alias_greedy": both(says, [(prompt, new) for prompt in aliases]),
    }
