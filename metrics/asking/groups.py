"""Several prompts that are one test: the forms of one question of MQuAKE, the AND and OR conditions of RippleEdits.

A test is right if any of its prompts is, or all, as the dataset says (`facts.Probe.group`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metrics.asking.prompts import Item
from metrics.types import PromptRow, Reading


def tests(rows: Sequence[PromptRow], items: Sequence[Item]) -> list[PromptRow]:
    """Merge the rows of each group into one: the first that counts, with the group's match.

    Args:
        items: the items of the rows, in the same order.
    """
    groups: dict[str, list[PromptRow]] = {}
    for index, (row, item) in enumerate(zip(rows, items, strict=True)):
        groups.setdefault(item.group or f"#{index}", []).append(row)
    rules = {item.group: item.group_rule for item in items}
    return [group[0] if len(group) == 1 else _one(group, rules[name]) for name, group in groups.items()]


def _one(rows: Sequence[PromptRow], rule: str) -> PromptRow:
    counted = [row for row in rows if row.counted]
    if not counted:
        return rows[0]
    return replace(
        counted[0],
        before=_matching([row.before for row in counted], rule),
        after=_matching([row.after for row in counted], rule),
    )


def _matching(readings: Sequence[Reading | None], rule: str) -> Reading | None:
    measured = [reading for reading in readings if reading is not None]
    matches = [reading.match for reading in measured]
    return replace(measured[0], match=any(matches) if rule == "any" else all(matches)) if measured else None
