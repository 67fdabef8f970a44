"""A finished English sentence in another language: known as a whole, or by the template that it fits."""

from __future__ import annotations

import re
from functools import lru_cache

from facts.language.catalogue import templates, translations

_BETWEEN = re.compile(r"(?<=\.) (?=[A-Z])")
"""Where one sentence ends and another begins."""


@lru_cache(maxsize=4096)
def in_language(sentence: str, language: str) -> str:
    """The sentence in a language; one that fits no template stays English."""
    if not sentence.removesuffix("."):  # gettext takes the empty text for the file's head
        return sentence
    known = translations(language)
    for text in (sentence, sentence[:1].lower() + sentence[1:]):
        for shorter, stop in ((text, ""), (text.removesuffix("."), "。")):
            words = known.gettext(shorter)
            if words != shorter:
                return words.removesuffix(stop) + stop
    for several, between in ((_BETWEEN.split(sentence), ""), (sentence.split("; "), "；")):
        each = [in_language(one, language) for one in several] if len(several) > 1 else []
        if each and all(words != one for words, one in zip(each, several, strict=True)):
            return between.join(each)
    for template in templates(language):
        match = template.pattern.fullmatch(sentence) if template.literal in sentence else None
        if match:
            values = {
                name: in_language(value, language) if " " in value else value
                for name, value in match.groupdict().items()
            }
            stop = values.pop("sentence_end")
            words = template.translation.format(**values)
            return words.removesuffix("。") + "。" if stop else words
    return sentence
