"""The translations: read from a .mo file that is made of the .po file, and templates that English sentences fit.

An error or a suggestion comes from a package that knows nothing of languages, as a finished English sentence.  Its
template, `layer {layer} is out of range`, is a msgid too (`app/language/extract.py` reads it off the f-string), so the
sentence can be held against all templates, and what stands in the places of the names goes into the translation.
"""

from __future__ import annotations

import gettext
import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter

FOLDER = Path(__file__).parent
DOMAIN = "engram"
"""As gettext calls the translations of a program."""
FEWEST_LETTERS = 6
"""Of a template beside its names; one with fewer would fit nearly any sentence."""


def po_file(language: str) -> Path:
    """The translations as people write them."""
    return FOLDER / f"{language}.po"


def mo_file(language: str) -> Path:
    """The same, compiled, where gettext looks for it; not in the repository."""
    return FOLDER / language / "LC_MESSAGES" / f"{DOMAIN}.mo"


def compiled(language: str) -> bytes:
    """The bytes of the .mo file."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    made = io.BytesIO()
    with po_file(language).open("rb") as file:
        write_mo(made, read_po(file, locale=language))
    return made.getvalue()


@cache
def translations(language: str) -> gettext.NullTranslations:
    """The translations of a language; compiled first where the .mo file is missing or older than the .po file."""
    source, target = po_file(language), mo_file(language)
    if not source.exists():
        return gettext.NullTranslations()
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        data = compiled(language)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError:  # a folder that may only be read
            return gettext.GNUTranslations(io.BytesIO(data))
    with target.open("rb") as file:
        return gettext.GNUTranslations(file)


@dataclass(frozen=True)
class Template:
    """A msgid with names in it, as a pattern for finished sentences."""

    translation: str
    pattern: re.Pattern[str]
    literal: str
    """Its longest part without names, which a sentence must hold."""
    letters: int


@cache
def templates(language: str) -> tuple[Template, ...]:
    """The templates of a language, those with the most letters of their own first, then the longest."""
    known = getattr(translations(language), "_catalog", {})
    made = [_template(text, known[text]) for text in known if isinstance(text, str) and names_in(text)]
    told_apart = (entry for entry in made if entry.letters >= FEWEST_LETTERS)
    return tuple(sorted(told_apart, key=lambda one: (-one.letters, -len(one.pattern.pattern))))


def names_in(text: str) -> list[str]:
    """The names in braces of a msgid, with how they are written out: `{share:.0f}` is `share:.0f`.

    Braces of other use, as in "in place of {}.", are no names.
    """
    try:
        fields = list(Formatter().parse(text))
    except ValueError:
        return []
    return [f"{name}{f'!{how}' if how else ''}{f':{spec}' if spec else ''}" for _, name, spec, how in fields if name]


def own_letters(text: str) -> int:
    """How many letters of a msgid stand outside its names."""
    return sum(letter.isalpha() for literal, *_ in Formatter().parse(text) for letter in literal)


def _template(text: str, translation: str) -> Template:
    parts, names = [""], []
    for literal, name, _, _ in Formatter().parse(text):
        parts[-1] += literal
        if name:
            names.append(name)
            parts.append("")
    literals = [re.escape(part) for part in parts]
    if parts[0]:  # errors get a capital letter where they begin a line
        first = parts[0][0]
        literals[0] = f"[{re.escape(first.lower())}{re.escape(first.upper())}]{re.escape(parts[0][1:])}"
    seen: set[str] = set()
    pattern = literals[0]
    for name, literal in zip(names, literals[1:], strict=True):
        # where two values meet, the first is words in brackets or ends at a space
        any_text = ".*?" if literal or name == names[-1] else r"(?: \([^()]*\)|\S*)"
        pattern += (f"(?P={name})" if name in seen else f"(?P<{name}>{any_text})") + literal
        seen.add(name)
    longest = max((part[1:] if part is parts[0] else part for part in parts), key=len)
    ends = re.compile(pattern + r"(?P<sentence_end>\.?)", re.DOTALL)
    return Template(translation, ends, longest, own_letters(text))
