"""Free-running answers: greedy continuations of a prompt, generated without giving the model the answer.

A continuation *matches* an answer if, after both are normalised, it starts with the answer and the answer ends at a
word boundary there.  The stop rule (end of sequence, end of sentence, or token budget) only decides how much text is
shown: matching uses the uncut text, so that a full stop inside an answer, as in "Washington, D.C." or "St. Louis", does
not cut it.  Why free-running: teacher forcing leaks the answer's content and its length (Yang et al.
2025, WILD, arXiv:2502.11177).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metrics.asking.kept import answers

if TYPE_CHECKING:
    from models import LanguageModel

MAX_NEW_TOKENS = 16
"""Default token budget of a continuation."""

BATCH = 32
"""Prompts decoded in one batch; an evaluation can be cancelled between two batches."""

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "})
_OPENING = " \t\"'([{*_:"
_CLOSING = " \t\"')]}*_.,;:!?"
_ARTICLE = re.compile(r"(the|a|an) (?=\S)")
# Scripts without spaces between words, where a following letter does not mean that the word goes on.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n|[\u3002\uff01\uff1f]")
# A full stop after one of these, or after a single capital letter, does not end a sentence.
_ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:St|Mt|Ft|Dr|Mr|Mrs|Ms|Jr|Sr|Prof|No|vs|etc|e\.g|i\.e|approx|Inc|Ltd|Co))$")


def normalise(text: str) -> str:
    """NFKC, case-folded, straight quotes, single spaces, no opening quote or bracket, no leading article."""
    folded = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    plain = " ".join(folded.split()).lstrip(_OPENING)
    return _ARTICLE.sub("", plain, count=1).lstrip(_OPENING) if _ARTICLE.match(plain) else plain


def matches(continuation: str, answers: Sequence[str], rivals: Sequence[str] = ()) -> bool:
    """Whether a continuation gives one of the answers.

    Args:
        continuation: text after the prompt, uncut.
        answers: the answer and its accepted other names; empty ones are ignored.
        rivals: wrong answers.  If a rival matches too and is longer than the matching answer, there is no match: with
            the true answer "Mexico City" as a rival, the text "Mexico City" does not match the new answer "Mexico".
    """
    matching = [len(normalise(answer)) for answer in answers if _starts_with(continuation, answer)]
    beaten = [len(normalise(rival)) for rival in rivals if _starts_with(continuation, rival)]
    return bool(matching) and max(matching) >= max(beaten, default=0)


def _starts_with(continuation: str, answer: str) -> bool:
    said, wanted = normalise(continuation), normalise(answer).rstrip(_CLOSING)
    return bool(wanted) and said.startswith(wanted) and _ends_word(wanted[-1], said[len(wanted) :])


def _ends_word(last: str, rest: str) -> bool:
    """Whether a word that ends in `last` stops before `rest`; a hyphen or apostrophe inside a word does not stop it."""
    if not rest or _UNSPACED.match(last):
        return True
    if rest[0].isalnum() or unicodedata.combining(rest[0]):
        return False
    inside_word = len(rest) > 1 and rest[0] in "-\u2010\u2011'" and rest[1].isalnum()
    return not inside_word or re.match(r"'s\b", rest) is not None


def first_sentence(continuation: str) -> str:
    """The continuation up to its natural stop: the first end of a sentence or of a line.  For display only.

    A full stop counts when followed by white space or the end, and not after an initial or a common abbreviation.
    """
    start = len(continuation) - len(continuation.lstrip())
    for end in _SENTENCE_END.finditer(continuation, start):
        if end.group().startswith(".") and _ABBREVIATION.search(continuation[: end.start()]):
            continue
        return continuation[: end.end()].rstrip()
    return continuation.rstrip()


@dataclass(frozen=True)
class Said:
    """A greedy continuation."""

    text: str
    """What follows the prompt, uncut."""
    ended: bool
    """The model ended the text or the context was full, so a larger budget would not make it longer."""


Question = tuple[tuple[int, ...], int]
"""Token ids of a prompt, and how many tokens are wanted."""


def continuations(
    model: LanguageModel,
    budgets: Mapping[str, int],
    *,
    begun: Mapping[str, Sequence[int]] | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """The texts of `continued`."""
    return {prompt: said.text for prompt, said in continued(model, budgets, begun=begun, tick=tick).items()}


def continued(
    model: LanguageModel,
    budgets: Mapping[str, int],
    *,
    begun: Mapping[str, Sequence[int]] | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, Said]:
    """Greedy continuation of each prompt, up to the end of a text, its token budget or the context's end.

    Args:
        budgets: most new tokens, by prompt.
        begun: the first tokens of a continuation, by prompt, where they are known already.
        tick: called with the number of prompts after each batch; may raise to stop.

    Raises:
        ValueError: if a prompt is empty or longer than the context.
    """
    questions: dict[str, Question] = {prompt: (tuple(model.encode(prompt)), budgets[prompt]) for prompt in budgets}
    begun = begun or {}
    first = {questions[prompt][0]: begun[prompt] for prompt in budgets if prompt in begun}
    texts = answers(model, questions.values(), lambda new: decoded(model, new, first, tick), tick)
    return {prompt: texts[question] for prompt, question in questions.items()}


def decoded(
    model: LanguageModel,
    questions: Sequence[Question],
    begun: Mapping[tuple[int, ...], Sequence[int]],
    tick: Callable[[int], None],
) -> dict[Question, Said]:
    """The continuations, decoded batch by batch; `begun` holds the first tokens of some, by the prompt's tokens."""
    continuations_of: dict[Question, Said] = {}
    for budget in sorted({budget for _, budget in questions}):
        # Sorted by length, because the model decodes prompts of like lengths together.
        waiting = sorted((row for row, of in questions if of == budget), key=len)
        for start in range(0, len(waiting), BATCH):
            rows = waiting[start : start + BATCH]
            first = [begun.get(row, ())[:budget] for row in rows]
            for row, ids in zip(rows, model.continuations(rows, budget, first), strict=True):
                continuations_of[row, budget] = said(model, (row, budget), ids)
            tick(len(rows))
    return continuations_of


def said(model: LanguageModel, question: Question, ids: Sequence[int]) -> Said:
    """The continuation of these new tokens."""
    row, budget = question
    full = len(row) + len(ids) >= model.max_positions
    return Said(model.continuation_text(row, ids), full or len(ids) < budget)


def to_natural_stop(
    model: LanguageModel, prompts: Iterable[str], max_new_tokens: int, known: Mapping[str, Said] | None = None
) -> dict[str, str]:
    """Each prompt's greedy continuation up to its first end of a sentence or line, the end of the text, or the budget.

    Most answers stop early, so a few tokens are generated first and the rest only where they hold no stop.

    Args:
        known: beginnings that were generated before.

    Raises:
        ValueError: if a prompt is empty or longer than the context.
    """
    said = {prompt: known[prompt] for prompt in dict.fromkeys(prompts) if known and prompt in known}
    said |= continued(model, {p: min(MAX_NEW_TOKENS, max_new_tokens) for p in dict.fromkeys(prompts) if p not in said})
    # A full stop at the end of an unfinished text may be no stop: "3." may go on as "3.5".
    waiting = [p for p in said if not said[p].ended and first_sentence(said[p].text) == said[p].text.rstrip()]
    said |= continued(model, dict.fromkeys(waiting, max_new_tokens))
    return {prompt: first_sentence(text.text) for prompt, text in said.items()}
