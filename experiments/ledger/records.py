"""Read a run's cells and results, each checked against its hash; find and delete damaged rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.ledger.ledger import STATUSES, Ledger, RunInfo, result_digest
from experiments.ledger.payload import decode
from experiments.ledger.schema import LedgerDamagedError
from experiments.plan import cell_key

_CHUNK = 32
"""Cells read at once; few, since a result may take megabytes."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A cell of a run with its current status and result."""

    position: int
    """In the plan."""
    key: str
    kind: str
    version: int
    spec: Mapping[str, Any]
    status: str
    attempts: int
    reason: str
    """Why it failed the last time."""
    payload: bytes | None
    """The result's bytes (`experiments.ledger.payload`); None unless it is done."""
    notes: Mapping[str, Any]
    """Measurements stored beside the result, such as seconds."""
    finished: float
    """Seconds since 1970; 0 unless it is done."""

    @property
    def result(self) -> dict[str, Any] | None:
        """None unless it is done."""
        return None if self.payload is None else decode(self.payload)


def entries(ledger: Ledger, run: str) -> Iterator[Entry]:
    """Every cell of a run, in the plan's order.

    Raises:
        LedgerDamagedError: at the first cell that is not as it was written.
    """
    for _, key, entry, damage in _checked(ledger, ledger.info(run)):
        if entry is None:
            raise LedgerDamagedError(
                f"cell {key[:12]} of run {run!r} is damaged: {damage}; "
                "`python -m experiments doctor --mend` deletes it, and `resume` computes it again"
            )
        yield entry


def damaged(ledger: Ledger, run: str) -> dict[str, str]:
    """Key -> what is wrong, for every damaged cell of a run.

    Raises:
        LedgerDamagedError: if the plan itself is not.
    """
    return {key: damage for _, key, entry, damage in _checked(ledger, ledger.info(run)) if entry is None}


def mend(ledger: Ledger, run: str) -> dict[str, str]:
    """Delete the damaged rows, so that they are computed again; returns the same as `damaged`.

    A cell with damaged settings is missing from the run until its plan is added again.
    """
    damage_of = damaged(ledger, run)
    with ledger.write() as connection:
        for key, damage in damage_of.items():
            connection.execute("DELETE FROM results WHERE key = ?", (key,))
            if damage == RESULT:
                connection.execute(
                    "UPDATE cells SET status = 'todo', attempts = 0, interrupted = 0, owner = NULL WHERE key = ?",
                    (key,),
                )
            else:
                connection.execute("DELETE FROM cells WHERE key = ?", (key,))
    return damage_of


RESULT = "its result is not what was written"
SETTINGS = "its settings are not what was planned"
MISSING = "its row is gone"


def _checked(ledger: Ledger, info: RunInfo) -> Iterator[tuple[int, str, Entry | None, str]]:
    """(position, key, entry or None, what is wrong) of every cell."""
    for start in range(0, len(info.keys), _CHUNK):
        keys = info.keys[start : start + _CHUNK]
        marks = ", ".join("?" * len(keys))
        rows = ledger.read(  # one statement, since another process may finish a cell between two
            "SELECT cells.key, kind, version, spec, status, attempts, reason, results.key IS NOT NULL, payload, notes,"
            f" digest, finished FROM cells LEFT JOIN results USING (key) WHERE cells.key IN ({marks})",
            *keys,
        )
        row_of = {row[0]: row for row in rows}
        for offset, key in enumerate(keys):
            entry, damage = _entry(start + offset, key, info, row_of.get(key))
            yield start + offset, key, entry, damage


def _entry(position: int, key: str, info: RunInfo, row: tuple[Any, ...] | None) -> tuple[Entry | None, str]:
    if row is None:
        return None, MISSING
    _, kind, version, text, status, attempts, reason, has_result, payload, notes, digest, finished = row
    try:
        spec = json.loads(str(text))
        matches = cell_key(kind, version, spec, info.identity) == key
    except ValueError:
        matches = False
    if not matches or status not in STATUSES:
        return None, SETTINGS
    if (status == "done") != bool(has_result):
        return None, RESULT
    if not has_result:
        return Entry(position, key, kind, version, spec, status, attempts, reason, None, {}, 0.0), ""
    typed = isinstance(payload, bytes) and isinstance(notes, str)  # a flipped bit may have turned it into a number
    if not typed or result_digest(key, payload, notes) != digest:
        return None, RESULT
    return Entry(position, key, kind, version, spec, status, attempts, reason, payload, json.loads(notes), finished), ""
