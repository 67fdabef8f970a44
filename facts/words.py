"""Rules about words in text: the subject in a prompt, and the answer after it."""

from __future__ import annotations

import re
import unicodedata

_OPENING = "([{<（「『《【〈«“‘„‚¿¡$€£¥#@"
"""Characters after which an answer follows without a space."""
_EITHER = "\"'`*_"
"""Marks that open or close: they open if only spaces, opening marks or their own kind come before."""
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3000, 0x30FF),  # CJK punctuation, Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # CJK ideographs
    (0xF900, 0xFAFF),
    (0xFF00, 0xFF9F),  # full-width forms, half-width Katakana
    (0x20000, 0x3FFFF),
)
"""Code points of scripts that are written without spaces between words."""
_BLANKS = " \t\u00a0"


def counted(n: int, noun: str, verb: tuple[str, str] = ("", "")) -> str:
    """A number with its noun, and the verb that goes with it: "1 row was", "2 rows were"."""
    return f"{n} {noun}{'' if n == 1 else 's'} {verb[n != 1]}".strip()


def occurrences(prompt: str, subject: str) -> tuple[int, ...]:
    """Character offsets at which the subject occurs in the prompt as a word, without overlaps.

    An occurrence inside a longer word does not count ("Iran" in "Iranian", "Apollo 1" in "Apollo 11") if the
    subject also occurs as a word.  Scripts without spaces have no such occurrences.
    """
    if not subject:
        return ()
    every = tuple(match.start() for match in re.finditer(re.escape(subject), prompt))
    return tuple(start for start in every if is_word(prompt, start, start + len(subject))) or every


def find_subject(prompt: str, subject: str) -> str:
    """The subject with the prompt's upper and lower case; empty if it does not occur."""
    folded = re.finditer(re.escape(subject), prompt, re.IGNORECASE)
    matches = [match[0] for match in folded]
    return next((words for words in matches if is_word(prompt, *_range(prompt, words))), matches[0] if matches else "")


def blank_before(text: str) -> str:
    """The separator between a text and its answer: a space or nothing.

    Nothing after white space, an opening quote or bracket, a currency sign, and in scripts without spaces: a model
    continues there with the bare word, and a space would ask for another token.
    """
    if not text or text[-1].isspace() or text[-1] in _OPENING or _unspaced(text[-1]):
        return ""
    if text[-1] in _EITHER:
        before = text.rstrip(_EITHER)
        closes = before and not before[-1].isspace() and before[-1] not in _OPENING and not _unspaced(before[-1])
        return " " if closes else ""
    return " "


def without_trailing_blank(prompt: str) -> str:
    """The prompt without spaces at its end; line ends stay, since prompts may end with one.

    An answer's first token includes the space, so after a space in the prompt the model is in a state it never saw.
    """
    return prompt.rstrip(_BLANKS)


def _range(prompt: str, words: str) -> tuple[int, int]:
    start = occurrences(prompt, words)[0]
    return start, start + len(words)


def is_word(prompt: str, start: int, stop: int) -> bool:
    """Whether the text from `start` to `stop` cuts no word in two."""
    return not (_joined(prompt[start - 1 : start], prompt[start]) or _joined(prompt[stop - 1], prompt[stop : stop + 1]))


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word; the empty text is the prompt's end."""
    if not left or not right or _unspaced(left) or _unspaced(right):
        return False
    return (left.isalnum() or _mark(left)) and (right.isalnum() or _mark(right))


def _mark(character: str) -> bool:
    """An accent that stands as a character of its own."""
    return unicodedata.category(character).startswith("M")


def _unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)
