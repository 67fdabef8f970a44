"""Cache of what a model and its views with edits answered.

Every edit, method and layer asks the unedited model the same questions, and the check on ordinary text reads texts with
an edit that its evaluation reads again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from models import LanguageModel

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_BYTES = 2**26
"""Most bytes of tensors kept for one model and its views (64 MiB)."""
MOST_ENTRIES = 10_000


class Kept:
    """Answers by question; the least recently used are dropped first.  May be used by several threads."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def known(self, questions: Iterable[K]) -> dict[K, Any]:
        """The kept answers to these questions."""
        with self._lock:
            answers_of = {question: self._entries[question][0] for question in questions if question in self._entries}
            for question in answers_of:
                self._entries.move_to_end(question)
        return answers_of

    def add(self, question: Hashable, answer: Any) -> None:
        """Keep an answer."""
        size = sum(
            value.nbytes for value in getattr(answer, "__dict__", {}).values() if isinstance(value, torch.Tensor)
        )
        with self._lock:
            self._bytes += size - self._entries.pop(question, (None, 0))[1]
            self._entries[question] = answer, size
            while self._bytes > MOST_BYTES or len(self._entries) > MOST_ENTRIES:
                self._bytes -= self._entries.popitem(last=False)[1][1]


_KEPT: WeakKeyDictionary[LanguageModel, Kept] = WeakKeyDictionary()
"""By unedited model."""
_LOCK = threading.Lock()


def answers(
    model: LanguageModel,
    questions: Iterable[K],
    ask: Callable[[list[K]], dict[K, V]],
    tick: Callable[[int], None],
    *,
    edited: bool = False,
) -> dict[K, V]:
    """The answer to every question; an unedited model is asked each question once.

    Args:
        questions: each holds everything the answer depends on besides the model.
        ask: answers the questions without a kept answer, and calls its own tick.
        tick: called with the number of questions that have a kept answer.
        edited: also a view with the same edits is asked once.
    """
    listed, base = list(dict.fromkeys(questions)), getattr(model, "base", model)
    # the revision covers the edits, but not which of two statements about a prompt is told
    who = model.revision, getattr(model, "prefix", ())
    if not edited and who != (base.revision, ()):
        return ask(listed)
    with _LOCK:
        kept = _KEPT.setdefault(base, Kept())
    known = kept.known([(who, question) for question in listed])
    answers_of: dict[K, V] = {question: answer for (_, question), answer in known.items()}
    if answers_of:
        tick(len(answers_of))
    new = ask([question for question in listed if question not in answers_of])
    for question, answer in new.items():
        kept.add((who, question), answer)
    answers_of |= new
    return {question: answers_of[question] for question in listed}
