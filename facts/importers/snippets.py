"""attribute_snippets.json (Meng et al. 2022, appendix D): texts about subjects that do have an object.

ROME's reference score compares what an edited model writes with them (`memit/dsets/attr_snippets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.errors import BadRowError, Raw, Rejected, RowError
from facts.importers.fields import Fields
from facts.importers.files.layout import raw_rows
from facts.importers.files.text import Source, name_of, pieces_of

Snippets = dict[tuple[str, str], tuple[tuple[str, str], ...]]
"""(relation id, object id) to (name of a subject, text about it)."""


def recognises(row: Mapping[str, Any]) -> bool:
    """A relation, an object and samples."""
    return {"relation_id", "target_id", "samples"} <= row.keys()


def read_snippets(source: Source) -> Snippets:
    """All texts of a file.

    Raises:
        ValueError: if the file is no such list, or one of its rows cannot be read.
    """
    found: Snippets = {}
    with pieces_of(source) as text:
        for number, raw in enumerate(raw_rows(text, name_of(source)), start=1):
            try:
                key, samples = _row(raw)
            except RowError as error:
                raise BadRowError(Rejected(number, raw.line, error.field, error.reason, raw.text)) from None
            found[key] = (*found.get(key, ()), *samples)
    return found


def _row(raw: Raw) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    if raw.value is None:
        raise raw.error or RowError("", "cannot be read")
    row = Fields(raw.value)
    key = (row.text("relation_id"), row.text("target_id"))
    # The texts are passages, longer than a prompt may be.
    return key, [(sample.text("name"), str(sample.take("text") or "")) for sample in row.parts("samples")]
