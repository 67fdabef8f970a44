"""Compare two answers after one prompt: success and magnitude of Meng et al. 2022 (arXiv:2202.05262).

With nll(y | x) the mean negative log probability per token of answer y after prompt x,

    success = [nll(right | x) < nll(wrong | x)]        magnitude = exp(-nll(right | x)) - exp(-nll(wrong | x))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp

from metrics.asking.scoring import NO_OTHER, NOT_FINITE
from metrics.protocols.base import Entry, Value, gathered
from metrics.protocols.readings import Pair, Readings

Question = tuple[str, str, str | None]
"""(prompt, right answer, wrong answer); None if no wrong answer is known."""


def pairs_of(questions: Sequence[Question]) -> tuple[Pair, ...]:
    """Every (prompt, answer) to score."""
    return tuple((prompt, answer) for prompt, *answers in questions for answer in answers if answer is not None)


def successes(questions: Sequence[Question], before: Readings, after: Readings, noun: str) -> Value:
    """Share of the questions whose right answer is more probable; a tie or a number that is not finite counts as no."""
    return gathered((_both(question, before, after, _success) for question in questions), noun)


def magnitudes(questions: Sequence[Question], before: Readings, after: Readings, noun: str) -> Value:
    """Mean magnitude over the questions."""
    return gathered((_both(question, before, after, _magnitude) for question in questions), noun)


def _both(question: Question, before: Readings, after: Readings, read: Callable[[Nlls], float | str]) -> Entry:
    """(before, after) of one question, or the first reason why it has none."""
    numbers = []
    for readings in (before, after):
        nlls = _nlls(question, readings)
        number = nlls if isinstance(nlls, str) else read(nlls)
        if isinstance(number, str):
            return number
        numbers.append(number)
    return numbers[0], numbers[1]


Nlls = tuple[float | None, float | None]
"""Negative log probability of the right and the wrong answer, nats per token; None if not finite."""


def _nlls(question: Question, readings: Readings) -> Nlls | str:
    prompt, right, wrong = question
    if wrong is None:
        return NO_OTHER
    answer, rival = readings.answer((prompt, right)), readings.answer((prompt, wrong))
    if isinstance(answer, str):
        return answer
    return rival if isinstance(rival, str) else (answer.nll, rival.nll)


def _success(nlls: Nlls) -> float:
    right, wrong = nlls
    return float(right is not None and wrong is not None and right < wrong)


def _magnitude(nlls: Nlls) -> float | str:
    right, wrong = nlls
    return NOT_FINITE if right is None or wrong is None else exp(-right) - exp(-wrong)
