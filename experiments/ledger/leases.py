"""Which process works on which cells.  Every function here is part of one write to the ledger.

A process leases the cells of one group for one of its slots, and computes them one after another.  When the process is
gone, the first cell of each of its slots was interrupted; the others were never begun.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.ledger.owners import is_dead

OUT_OF_MEMORY = "out of memory"
"""First words of a failure's reason if a smaller batch may help."""
GROUP = 64
"""Cells leased at once."""
MOST_INTERRUPTIONS = 10
"""How often a cell's process may vanish before the cell is given up: rarely, the cell is what kills it."""


@dataclass(frozen=True)
class Leased:
    """A cell that a process holds."""

    key: str
    kind: str
    version: int
    spec: Mapping[str, Any]
    group: str
    attempts: int
    """How often it failed before."""
    reason: str
    """Why it failed the last time."""

    @property
    def halvings(self) -> int:
        """How often to halve its batch; only after running out of memory, since the batch may change last bits."""
        return self.attempts if self.reason.startswith(OUT_OF_MEMORY) else 0


def take(connection: sqlite3.Connection, run: str, owner: str, slot: int, seconds: float) -> list[Leased]:
    """Lease the next cells of one group, those that never failed first, so that a failing cell does not block
    others."""
    now = time.time()
    take_over(connection, now)
    mine = "status = 'todo' AND EXISTS (SELECT 1 FROM members WHERE run = ? AND key = c.key)"
    tries = "attempts + interrupted"
    first = connection.execute(
        f"SELECT grp, {tries} FROM cells AS c WHERE {mine} ORDER BY {tries}, number LIMIT 1", (run,)
    ).fetchone()
    if first is None:
        return []
    rows = connection.execute(
        f"SELECT key, kind, version, spec, grp, attempts, reason FROM cells AS c"
        f" WHERE {mine} AND grp = ? AND {tries} = ? ORDER BY number LIMIT ?",
        (run, *first, GROUP),
    ).fetchall()
    connection.executemany(
        "UPDATE cells SET status = 'leased', owner = ?, slot = ?, turn = ?, until = ? WHERE key = ?",
        [(owner, slot, turn, now + seconds, row[0]) for turn, row in enumerate(rows)],
    )
    return [Leased(key, kind, version, json.loads(spec), *rest) for key, kind, version, spec, *rest in rows]


def take_over(connection: sqlite3.Connection, now: float) -> None:
    """Free the leases that ran out and those of dead owners."""
    held = connection.execute("SELECT owner, min(until) FROM cells WHERE owner IS NOT NULL GROUP BY owner").fetchall()
    for owner, until in held:
        if not (is_dead(owner) or until < now):
            continue
        connection.execute(
            "UPDATE cells SET interrupted = interrupted + 1 WHERE owner = ?1 AND status = 'leased' AND turn ="
            " (SELECT min(turn) FROM cells AS other"
            " WHERE owner = ?1 AND status = 'leased' AND other.slot = cells.slot)",
            (owner,),
        )
        reason = f"the process that ran it was gone {MOST_INTERRUPTIONS} times"
        connection.execute(
            "UPDATE cells SET status = 'failed', reason = ?, owner = NULL"
            " WHERE owner = ? AND status = 'leased' AND interrupted >= ?",
            (reason, owner, MOST_INTERRUPTIONS),
        )
        give_back(connection, owner)


def renew(connection: sqlite3.Connection, run: str, owner: str, executor: str, seconds: float) -> None:
    """Record a sign of life of the owner, and extend all its leases."""
    now = time.time()
    connection.execute(
        "INSERT INTO owners VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE SET beat = excluded.beat",
        (owner, run, executor, now, now),
    )
    connection.execute("UPDATE cells SET until = ? WHERE owner = ? AND status = 'leased'", (now + seconds, owner))


def give_back(connection: sqlite3.Connection, owner: str) -> None:
    """Free everything the owner holds, and delete the owner."""
    connection.execute("UPDATE cells SET status = 'todo', owner = NULL WHERE owner = ? AND status = 'leased'", (owner,))
    connection.execute("DELETE FROM owners WHERE owner = ?", (owner,))
