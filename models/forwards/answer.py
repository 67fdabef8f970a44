"""The model's own answer."""

from __future__ import annotations

from models.language_model import LanguageModel
from models.text.characters import HALF, MOST_TOKENS


def own_answer(model: LanguageModel, prompt: str) -> list[int]:
    """The model's greedy next token, with further tokens if it is only part of a character.

    Raises:
        ValueError: if the prompt is empty or too long.
    """
    ids, answer = model.encode(prompt), list[int]()
    for _ in range(MOST_TOKENS):
        row = [*ids, *answer]
        (logits,) = model.logits_where([row], [[len(row) - 1]])
        answer.append(int(logits.argmax()))
        if HALF not in model.decode(answer, special_tokens=True):
            return answer
    return answer[:1]
