"""The formats, in the order in which they are tried: the most telling fields first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from facts.importers.fields import Fields
from facts.importers.formats import (
    counterfact,
    counterfact_edit,
    easyedit,
    engram,
    known,
    mquake,
    plain,
    qaedit,
    rippleedits,
    rome,
    wikibigedit,
    zsre,
)
from facts.importers.formats.knowedit import chinese, sanitation, wiki
from facts.types import Case


def _one_row(document: Mapping[str, Any]) -> Iterator[Any]:
    yield document


@dataclass(frozen=True)
class Format:
    """One way in which data sets write a row."""

    name: str
    title: str
    recognises: Callable[[Mapping[str, Any]], bool]
    """Whether a row looks like this format, judged by its fields alone."""
    read: Callable[[Fields], Case]
    expand: Callable[[Mapping[str, Any]], Iterator[Any]] = _one_row
    """The rows of one JSON object; several where a file is a single object."""
    exact: bool = False
    """Texts keep the blanks at their ends."""


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("engram", "Engram cases", engram.recognises, engram.read, exact=True),
        Format("mquake", "MQuAKE", mquake.recognises, mquake.read),
        Format("counterfact", "CounterFact, multi_counterfact", counterfact.recognises, counterfact.read),
        Format("rippleedits", "RippleEdits", rippleedits.recognises, rippleedits.read),
        Format("known_1000", "known_1000", known.recognises, known.read),
        Format("sanitation", "KnowEdit Sanitation", sanitation.recognises, sanitation.read, sanitation.expand),
        Format("zsre", "zsRE (MEND)", zsre.recognises, zsre.read),
        Format("wikibigedit", "WikiBigEdit", wikibigedit.recognises, wikibigedit.read),
        Format("qaedit", "QAEdit", qaedit.recognises, qaedit.read),
        Format("knowedit-wikibio", "KnowEdit WikiBio", wiki.recognises_wikibio, wiki.read),
        Format("counterfact-edit", "counterfact-edit", counterfact_edit.recognises, counterfact_edit.read),
        Format("cknowedit", "CKnowEdit", chinese.recognises, chinese.read),
        Format("knowedit-zsre", "KnowEdit ZsRE", wiki.recognises_zsre, wiki.read),
        Format("knowedit-counterfact", "KnowEdit wiki_counterfact", wiki.recognises_counterfact, wiki.read),
        Format("knowedit-recent", "KnowEdit wiki_recent", wiki.recognises_recent, wiki.read),
        Format("rome", "ROME requests", rome.recognises, rome.read),
        Format("easyedit", "EasyEdit requests", easyedit.recognises, easyedit.read, easyedit.expand),
        Format("plain", "plain table or JSON Lines", plain.recognises, plain.read),
    )
}


def get_format(name: str) -> Format:
    """A format by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    return FORMATS[name]
