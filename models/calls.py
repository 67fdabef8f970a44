"""What an edited layer may know of the call it is part of: how long each row's prompt is, and which pass this is.

Some edits act by the prompt alone: they decide once, when the prompt is read, and keep to it while the answer is
generated.  The layers cannot tell a prompt from an answer, and one layer object serves many threads, so the call is
kept in a context variable and never on the layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(eq=False)
class Call:
    """One call of `LanguageModel.logits`, or the generation of one batch."""

    prompt_lengths: Tensor
    """[batch], tokens of each row's prompt; what follows is an answer."""
    reads_prompt: bool = True
    """False in the later passes of a generation, which see one new token each."""
    decisions: dict[int, Any] = field(default_factory=dict)
    """What a rewrite decided while the prompt was read, by its `id`, for the later passes."""


_CALL: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """The call this thread is in; None where a module is run directly, as a tracing tool does."""
    return _CALL.get()


@contextmanager
def calling(prompt_lengths: Tensor) -> Iterator[Call]:
    """Run a forward, or several, as one call."""
    call = Call(prompt_lengths)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)
