"""Protocols the slow, obvious way: one prompt at a time on the Hugging Face module, as the published codes slice it."""

from __future__ import annotations

import math

import torch

from models import LanguageModel
from tests.oracle import scores


def easyedit_tokens(model: LanguageModel, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """(argmax(logits)[p-1:-1], input_ids[p:]) of EasyEdit's `test_prediction_acc`, without its padding."""
    together = model.tokenizer(prompt + " " + target)["input_ids"]
    p = len(model.tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([together])).logits[0]
    return logits.argmax(-1).tolist()[p - 1 : -1], together[p:]


def easyedit_accuracy(model: LanguageModel, prompt: str, target: str) -> float:
    """Share of the target's tokens that are predicted."""
    predicted, labels = easyedit_tokens(model, prompt, target)
    return sum(a == b for a, b in zip(predicted, labels, strict=True)) / len(labels)


def easyedit_locality(base: LanguageModel, edited: LanguageModel, prompt: str, truth: str) -> float:
    """Share of equal predictions at the places of the ground truth."""
    before, after = (easyedit_tokens(model, prompt, truth)[0] for model in (base, edited))
    return sum(a == b for a, b in zip(before, after, strict=True)) / len(before)


def rome_magnitude(model: LanguageModel, prompt: str, right: str, wrong: str) -> float:
    """exp(-nll) of the one minus that of the other."""
    return math.exp(-scores.forced(model, prompt, right).nll) - math.exp(-scores.forced(model, prompt, wrong).nll)
