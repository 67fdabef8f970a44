"""Display of tokens that hold part of a character, as byte-level tokenizers make of rare scripts and emoji."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF = "\ufffd"
"""What a part of a character decodes to."""
CONTINUED = "⋯"
"""Shown for tokens that continue the character of an earlier token."""
MOST_TOKENS = 4
"""Tokens of one character: UTF-8 has at most four bytes."""


def whole_characters(strings: Sequence[str], decode: Callable[[int, int], str]) -> list[str]:
    """The tokens' texts with every character shown once, at the first of the tokens that make it up.

    Args:
        strings: each token decoded alone.
        decode: the text of tokens `start` up to but not including `stop`, decoded together.
    """
    shown = list(strings)
    start = 0
    while start < len(shown):
        stop = start + 1
        if HALF in strings[start]:
            ends = range(start + 2, min(start + MOST_TOKENS, len(shown)) + 1)
            stop = next((end for end in ends if HALF not in decode(start, end)), start + 1)
        if stop > start + 1:
            shown[start:stop] = [decode(start, stop), *[CONTINUED] * (stop - start - 1)]
        start = stop
    return shown
