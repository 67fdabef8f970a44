"""known_1000 (Meng et al. 2022, section 2): facts GPT-2 XL knows, to be traced, not rewritten.

The file's `template` is not always its `prompt` with the subject taken out, and `prompt` is what was traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facts.importers.build import fact_of
from facts.importers.fields import Fields
from facts.types import Case


def recognises(row: Mapping[str, Any]) -> bool:
    """Answers are called attributes here."""
    return "known_id" in row or {"attribute", "prompt", "subject"} <= row.keys()


def read(row: Fields) -> Case:
    """One row as a case without a request."""
    fact, notes = fact_of(row, "prompt", "subject", row.text("attribute"), row.optional("relation_id"))
    return Case(row.label("known_id"), known=(fact,), notes=notes)
