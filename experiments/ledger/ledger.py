"""The ledger: every cell, who computes it, and every result, in one SQLite file that several processes share.

    todo ─► leased (owner, until) ─► done | failed (reason)

A lease that its owner does not renew, or whose owner is dead, is taken over.  A result is written once, in the
transaction that marks its cell as done, and is on disk before `put` returns.  Results, settings and lists of cells are
stored with hashes, so that damage by a failing disk is reported and never returned as a result
(`experiments.ledger.records` reads and checks them).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from experiments.kinds import get_kind
from experiments.ledger import leases
from experiments.ledger.leases import Leased
from experiments.ledger.owners import is_dead
from experiments.ledger.schema import FILE, LedgerDamagedError, LedgerError, connect, transaction, translated
from experiments.plan import Plan, canonical, cell_key

MOST_ATTEMPTS = 3
"""Failures after which a cell is given up."""
SILENT_SECONDS = 300.0
"""A process that gave no sign of life for so long is gone; of one from before a restart of the machine or of its
container nothing else is known."""
STATUSES = ("todo", "leased", "done", "failed")
_OF_RUN = "FROM members JOIN cells USING (key) WHERE run = ?"


@dataclass(frozen=True)
class RunInfo:
    """A run as it was planned."""

    name: str
    model: str
    dtype: str
    device: str
    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    made: float
    """Seconds since 1970."""
    keys: tuple[str, ...]
    """Of its cells, in the plan's order."""


class Ledger:
    """A folder's ledger; may be used by several threads.

    Args:
        folder: where `ledger.sqlite` is, or is to be made.
        create: make it if it is not there.
        network: allow a network file system, where only one machine may write.

    Raises:
        FileNotFoundError, LedgerError: as in `experiments.ledger.schema.connect`.
    """

    def __init__(self, folder: Path | str, *, create: bool = True, network: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._lock = threading.RLock()
        self._connection = connect(self.path, create=create, network=network)

    def close(self) -> None:
        """Close the file; nothing else may be called after."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- plans

    def add(self, plan: Plan, identity: Mapping[str, Any]) -> str:
        """Store a plan as a run under its name; cells that the ledger has already keep their status and results.

        Returns:
            The run's name.  Adding the same plan again changes nothing.

        Raises:
            ValueError: if a cell's settings are wrong, or the name is taken by another plan.
        """
        rows: dict[str, tuple[str, int, str, str]] = {}
        for cell in plan.cells:
            kind = get_kind(cell.kind)
            spec = kind.complete(cell.spec)
            rows[cell_key(kind.name, kind.version, spec, identity)] = (
                kind.name,
                kind.version,
                canonical(spec),
                kind.group(spec),
            )
        head = (plan.model, plan.dtype, plan.device, canonical(identity), canonical(plan.about))
        digest = run_digest(plan.name, head, rows)
        with self.write() as connection:
            planned = connection.execute("SELECT digest FROM runs WHERE name = ?", (plan.name,)).fetchone()
            if planned is not None and planned[0] != digest:
                raise LedgerError(
                    f"the ledger has a run {plan.name!r} with another plan, model or library; choose another name for "
                    "this one (cells that both have are computed once)"
                )
            if planned is None:
                connection.execute(
                    "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (plan.name, *head, digest, time.time())
                )
            connection.executemany(  # also for a known plan: this restores rows that `mend` deleted
                "INSERT OR IGNORE INTO cells (key, kind, version, spec, grp) VALUES (?, ?, ?, ?, ?)",
                [(key, *row) for key, row in rows.items()],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?, ?)",
                [(plan.name, key, place) for place, key in enumerate(rows)],
            )
        return plan.name

    def planned(self) -> dict[str, tuple[str, float]]:
        """Run -> (model, seconds since 1970 when it was planned), oldest first."""
        rows = self.read("SELECT name, model, made FROM runs ORDER BY made, rowid")
        return {name: (model, made) for name, model, made in rows}

    def runs(self) -> list[str]:
        """Names of all runs, oldest first."""
        return list(self.planned())

    def only_run(self, name: str = "") -> str:
        """The run of that name; without a name, the ledger's only one, not counting those that follow it: their names
        begin with its own and a dot.

        Raises:
            LedgerError: if there is no such run, or there are several and none is named.
        """
        names = self.runs()
        first = [one for one in names if not any(one.startswith(f"{other}.") for other in names)]
        if name in names or (not name and len(first) == 1):
            return name or first[0]
        if not names:
            raise LedgerError(f"the ledger {str(self.path)!r} holds no run yet; start one with `run`")
        if not name:
            raise LedgerError(f"there are {len(names)} runs in {str(self.path)!r}; name one of {', '.join(names)}")
        raise LedgerError(f"there is no run {name!r} in {str(self.path)!r}; name one of {', '.join(names)}")

    def info(self, run: str) -> RunInfo:
        """The run as it was planned.

        Raises:
            LedgerError: if there is none of that name.
            LedgerDamagedError: if it is not as it was written.
        """
        rows = self.read("SELECT model, dtype, device, identity, about, digest, made FROM runs WHERE name = ?", run)
        if not rows:
            self.only_run(run)  # raises, naming the runs there are
        head = rows[0][:5]
        keys = [row[0] for row in self.read("SELECT key FROM members WHERE run = ? ORDER BY position", run)]
        if run_digest(run, head, keys) != rows[0][5]:
            raise LedgerDamagedError(f"the plan of run {run!r} is damaged; add it again under another name")
        model, dtype, device, identity, about = head
        return RunInfo(run, model, dtype, device, json.loads(identity), json.loads(about), rows[0][6], tuple(keys))

    def counts(self, run: str) -> dict[str, int]:
        """Number of cells of a run by status, zeros included."""
        rows = self.read(f"SELECT status, count(*) {_OF_RUN} GROUP BY status", run)
        return dict.fromkeys(STATUSES, 0) | {status: int(n) for status, n in rows}

    def kinds(self, run: str) -> list[str]:
        """The kinds of a run's cells, each once."""
        return [row[0] for row in self.read(f"SELECT DISTINCT kind {_OF_RUN}", run)]

    def failures(self, run: str, most: int | None = None) -> list[dict[str, Any]]:
        """The first failed cells in the plan's order: key, kind, attempts and reason of each."""
        names = ("key", "kind", "attempts", "reason")
        query = f"SELECT {', '.join(names)} {_OF_RUN} AND status = 'failed' ORDER BY position LIMIT ?"
        return [dict(zip(names, row, strict=True)) for row in self.read(query, run, -1 if most is None else most)]

    def finished(self, run: str, most: int, since: float = 0.0) -> list[float]:
        """When the last results came, seconds since 1970, the newest first.

        Args:
            most: how many are given.
            since: leave out those from before.
        """
        rows = self.read(
            "SELECT finished FROM results JOIN members USING (key) WHERE run = ? AND finished > ?"
            " ORDER BY finished DESC LIMIT ?",
            run,
            since,
            most,
        )
        return [row[0] for row in rows]

    # ---- leases

    def lease(self, run: str, owner: str, slot: int, seconds: float) -> list[Leased]:
        """Lease the next cells of one group to an owner's slot; empty if none is free."""
        with self.write() as connection:
            return leases.take(connection, run, owner, slot, seconds)

    def beat(self, run: str, owner: str, executor: str, seconds: float) -> None:
        """Record a sign of life of the owner, and renew its leases."""
        with self.write() as connection:
            leases.renew(connection, run, owner, executor, seconds)

    def release(self, owner: str) -> None:
        """Free everything an owner holds, and delete the owner, at its regular end."""
        with self.write() as connection:
            leases.give_back(connection, owner)

    def working(self, run: str) -> list[tuple[str, str, float]]:
        """(owner, executor, seconds since its last sign of life) of every live process that works on a run."""
        now = time.time()
        rows = self.read(
            "SELECT owner, executor, beat FROM owners WHERE run = ? AND beat > ?", run, now - SILENT_SECONDS
        )
        return [(owner, executor, now - beat) for owner, executor, beat in rows if not is_dead(owner)]

    # ---- results

    def put(self, key: str, payload: bytes, notes: Mapping[str, Any]) -> bool:
        """Store a result; it is on disk when this returns.

        Returns:
            False if the cell was done already: the first result stands.

        Raises:
            LedgerFullError: if there is no room for it.
        """
        text = canonical(notes)
        with self.write() as connection:
            changed = connection.execute(
                "UPDATE cells SET status = 'done', owner = NULL, reason = '' WHERE key = ? AND status != 'done'", (key,)
            ).rowcount
            if changed:
                connection.execute(
                    "INSERT INTO results VALUES (?, ?, ?, ?, ?)",
                    (key, payload, text, result_digest(key, payload, text), time.time()),
                )
        return bool(changed)

    def fail(self, key: str, owner: str, reason: str, *, final: bool = False) -> None:
        """Record a failure of a cell that the owner holds; it is tried again unless `final` or out of attempts."""
        with self.write() as connection:
            connection.execute(
                "UPDATE cells SET attempts = attempts + 1, reason = ?, owner = NULL,"
                " status = CASE WHEN ? OR attempts + 1 >= ? THEN 'failed' ELSE 'todo' END"
                " WHERE key = ? AND owner = ? AND status = 'leased'",
                (reason, final, MOST_ATTEMPTS, key, owner),
            )

    def retry(self, run: str) -> int:
        """Reset the failed cells of a run, so that they are computed again; returns how many."""
        with self.write() as connection:
            return connection.execute(
                "UPDATE cells SET status = 'todo', attempts = 0, interrupted = 0, reason = ''"
                " WHERE status = 'failed' AND key IN (SELECT key FROM members WHERE run = ?)",
                (run,),
            ).rowcount

    # ---- the file

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._lock, translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when the block is left."""
        with self._lock, translated(self.path), transaction(self._connection):
            yield self._connection


def result_digest(key: str, payload: bytes, notes: str) -> str:
    """sha256 of a result's row."""
    digest = hashlib.sha256(f"{key} {len(payload)} ".encode())
    digest.update(payload)
    digest.update(notes.encode())
    return digest.hexdigest()


def run_digest(name: str, head: Iterable[str], keys: Iterable[str]) -> str:
    """sha256 of a run's row and its list of cells."""
    return hashlib.sha256("\n".join(map(str, [name, *head, *keys])).encode()).hexdigest()
