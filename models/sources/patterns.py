"""Which regular expressions of a tokenizer may take for ever on some text.

A tokenizer.json may hold any expression, and the library that runs it (Oniguruma, which backtracks) cannot be stopped:
`(a+)+$` on forty letters a runs for hours.  Refused is what can take more than the square of the text's length:

* a group repeated many times whose body can match one text in several ways, for it repeats, is optional or has
  alternatives inside;
* two or more repeats in a row, of any number of times each, before something that may fail.

The expressions of published tokenizers (GPT-2's, GPT-4's, Llama 3's, Qwen's, BLOOM's) pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MAX_LENGTH = 10_000
_MAX_DEPTH = 50
_MANY = 5
"""A group repeated so often counts as repeated without end."""
_QUANTIFIER = re.compile(r"([*+?]|\{(\d*)(,?)(\d*)\})[?+]?")
_OPENING = re.compile(r"\((\?(:|=|!|<=|<!|>|#|P?<\w+>|[imxs-]+[:)]))?")
_ESCAPE = re.compile(r"\\([pPx]\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^gk])", re.DOTALL)


class UnreadableError(ValueError):
    """The expression uses something that is not judged here."""


@dataclass(frozen=True)
class _Part:
    """What a piece of an expression can do."""

    certain: bool = True
    """Whether any text it matches is matched in one way: no repeats without end, options or alternatives."""
    may_fail: bool = True
    """Whether it must match something."""
    before: int = 0
    """Most repeats without end in a row before something that may fail."""
    repeats: int = 0
    """Most repeats without end in a row."""


def may_hang(pattern: str) -> bool:
    """Whether an expression may take more than the square of the text's length, or cannot be judged."""
    if len(pattern) > MAX_LENGTH:
        return True
    try:
        part, end = _alternatives(pattern, 0, 0)
    except UnreadableError:
        return True
    return end < len(pattern) or part.before > 1


def _alternatives(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    """Alternatives up to a closing bracket or the end."""
    if depth > _MAX_DEPTH:
        raise UnreadableError
    parts = []
    while True:
        part, at = _sequence(pattern, at, depth)
        parts.append(part)
        if at >= len(pattern) or pattern[at] != "|":
            break
        at += 1
    whole = _Part(
        certain=len(parts) == 1 and parts[0].certain,
        may_fail=all(part.may_fail for part in parts),
        before=max(part.before for part in parts),
        repeats=max(part.repeats for part in parts),
    )
    return whole, at


def _sequence(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    whole = _Part(may_fail=False)
    while at < len(pattern) and pattern[at] not in "|)":
        part, at = _atom(pattern, at, depth)
        while (quantifier := _QUANTIFIER.match(pattern, at)) is not None:
            part, at = _repeated(part, quantifier), quantifier.end()
        before = max(whole.before, part.before + whole.repeats if part.may_fail or part.before else 0)
        whole = _Part(
            whole.certain and part.certain, whole.may_fail or part.may_fail, before, whole.repeats + part.repeats
        )
    return whole, at


def _repeated(part: _Part, quantifier: re.Match[str]) -> _Part:
    """A part behind which a quantifier stands."""
    kind, low, comma, high = quantifier.groups()
    if kind in "*+?":
        least, most = int(kind == "+"), 1 if kind == "?" else None
    else:
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
    if (most is None or most >= _MANY) and not part.certain:
        raise UnreadableError  # the texts that its repeats match can be shared out in ever so many ways
    may_fail = part.may_fail and least > 0
    if most is None:
        return _Part(certain=False, may_fail=may_fail, before=part.before, repeats=part.repeats + 1)
    return replace(part, certain=part.certain and least == most, may_fail=may_fail)


def _atom(pattern: str, at: int, depth: int) -> tuple[_Part, int]:
    """A character, a class, an escape or a group."""
    if pattern[at] == "[":
        return _Part(), _end_of_class(pattern, at)
    if pattern[at] == "\\":
        escape = _ESCAPE.match(pattern, at)
        if escape is None:  # a group by its name: it may call itself
            raise UnreadableError
        return _Part(), escape.end()
    if pattern[at] != "(":
        return _Part(), at + 1
    opening = _OPENING.match(pattern, at)
    if opening is None or (pattern.startswith("(?", at) and not opening[1]):
        raise UnreadableError
    if (opening[2] or "").endswith(")"):
        return _Part(may_fail=False), opening.end()  # flags
    if opening[2] == "#":
        return _Part(may_fail=False), pattern.index(")", at) + 1 if ")" in pattern[at:] else len(pattern)
    part, end = _alternatives(pattern, opening.end(), depth + 1)
    if end >= len(pattern):
        raise UnreadableError
    if opening[2] in ("=", "!", "<=", "<!"):
        # what a look around matched is forgotten, so its repeats do not add to those that follow
        part = _Part(before=part.before)
    return part, end + 1


def _end_of_class(pattern: str, at: int) -> int:
    """Where a class such as [^a-z[:digit:]] ends; classes may stand in classes."""
    depth, at = 0, at
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
            at += len(re.match(r"\[\^?\]?", pattern[at:]).group()) - 1  # type: ignore[union-attr]  # "[" matches
        elif pattern[at] == "]":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    raise UnreadableError
