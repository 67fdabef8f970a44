"""What edited layers need to know about the current call: the length of each row's prompt, and which pass this is.

Some edits decide once, when the prompt is read, and keep to that while the answer is generated.  A layer cannot tell a
prompt from an answer, and one layer object serves many threads, so the call is kept in a context variable, never on the
layer.
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
    """[batch], tokens of each row's prompt; the rest of the row is an answer."""
    reads_prompt: bool = True
    """False in the later passes of a generation, which see one new token each."""
    decisions: dict[int, Any] = field(default_factory=dict)
    """Each rewrite's decision when the prompt was read, by the rewrite's `id`, for the later passes."""


_CALL: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """This thread's call; None if a module is run directly, as tracing tools do."""
    return _CALL.get()


@contextmanager
def calling(prompt_lengths: Tensor) -> Iterator[Call]:
    """Run one or several forwards as one call."""
    call = Call(prompt_lengths)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)
