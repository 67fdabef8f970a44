"""The ledger's file: its tables, opening and migrating it, and SQLite's errors as messages for users."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "ledger.sqlite"
BUSY_MS = 30_000

TABLES = """
CREATE TABLE runs (
    name TEXT PRIMARY KEY,
    model TEXT NOT NULL, dtype TEXT NOT NULL, device TEXT NOT NULL,
    identity TEXT NOT NULL, about TEXT NOT NULL,
    digest TEXT NOT NULL, -- sha256 of the fields above and the keys of the run's cells in their order
    made REAL NOT NULL
) STRICT;
CREATE TABLE cells (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE, -- sha256 of all the result depends on, kind and spec among it
    kind TEXT NOT NULL, version INTEGER NOT NULL, spec TEXT NOT NULL, grp TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'leased', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0, -- it failed, or its worker died of it
    interrupted INTEGER NOT NULL DEFAULT 0, -- whoever ran it was gone, for whatever reason
    reason TEXT NOT NULL DEFAULT '',
    owner TEXT, slot INTEGER, turn INTEGER, until REAL
) STRICT;
CREATE INDEX cells_open ON cells (status, attempts + interrupted, number);
CREATE INDEX cells_group ON cells (grp, status);
CREATE INDEX cells_owner ON cells (owner) WHERE owner IS NOT NULL;
CREATE TABLE members (
    run TEXT NOT NULL, key TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE results (
    key TEXT PRIMARY KEY,
    payload BLOB NOT NULL, notes TEXT NOT NULL,
    digest TEXT NOT NULL, -- sha256 of key, payload and notes
    finished REAL NOT NULL
) STRICT;
CREATE TABLE owners (
    owner TEXT PRIMARY KEY, run TEXT NOT NULL, executor TEXT NOT NULL, started REAL NOT NULL, beat REAL NOT NULL
) STRICT;
"""
MIGRATIONS: tuple[str, ...] = ()
"""What turns version 1 into 2, 2 into 3, and so on."""

NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "davfs",
    ]
)
"""Network file systems; SQLite's write-ahead log needs shared memory, which several machines do not have."""


class LedgerError(ValueError):
    """The ledger cannot be used; the message says why and what to do."""


class LedgerFullError(LedgerError):
    """The disk is full; everything stored before is kept."""


class LedgerDamagedError(LedgerError):
    """The file is damaged: it does not hold what was written."""


def connect(path: Path, *, create: bool, network: bool = False) -> sqlite3.Connection:
    """An open ledger of the current version.

    Args:
        create: make the file if it is not there.
        network: open it on a network file system too, with a rollback journal in place of the write-ahead log.

    Raises:
        FileNotFoundError: if there is no such ledger and none is to be made.
        LedgerError: if the file is no ledger, one of a newer version, or on a network file system.
    """
    if not path.is_file() and not create:
        raise FileNotFoundError(f"there is no ledger {str(path)!r}; give the folder of a run with --out")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the folder {str(path.parent)!r} cannot be made: {error.strerror}") from None
    system = file_system(path.parent)
    if system in NETWORK and not network:
        raise LedgerError(
            f"{str(path.parent)!r} is on a network file system ({system}), where SQLite's log is not safe; "
            "choose a local folder, or say --network if only one machine writes there"
        )
    with translated(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        try:
            # a flipped bit may break the encoding; replace it, so that the row's hash reports the damage
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if network else 'WAL'}")
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Migrate the file to the current version, after a backup, one transaction for each step.

    Raises:
        LedgerError: if it is newer than this program, or no ledger at all.
    """
    newest = 1 + len(MIGRATIONS)
    with transaction(connection):  # if two processes open a new file, only one creates the tables
        version = _version(connection)
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise LedgerError(f"{str(path)!r} is a database of something else; choose another folder")
            for statement in [*TABLES.split(";\n"), *MIGRATIONS]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {newest}")
            return
    if version > newest:
        raise LedgerError(
            f"the ledger {str(path)!r} has version {version}, made by a newer Engram; this one reads up to {newest}, "
            "so update it"
        )
    if version < newest:
        backup = path.with_name(f"{path.stem}.v{version}{path.suffix}")
        if not backup.exists():
            connection.execute("VACUUM INTO ?", (str(backup),))
    for step in range(version, newest):
        with transaction(connection):
            if _version(connection) == step:
                connection.execute(MIGRATIONS[step - 1])
                connection.execute(f"PRAGMA user_version = {step + 1}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction; IMMEDIATE, since upgrading a read fails at once while another process writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into `LedgerError` messages."""
    try:
        yield
    except UnicodeDecodeError as error:  # raised when sqlite3 quotes a damaged name from the file
        raise _damaged(path, error) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise LedgerFullError(
                f"nothing more can be written to {str(path)!r} ({error}); everything finished is kept, "
                "so free some space and resume"
            ) from error
        # our queries are correct, so an invalid one means that the tables are damaged
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise _damaged(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerError(
                f"the ledger {str(path)!r} was locked by another program for {BUSY_MS // 1000} s; close that program"
            ) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise LedgerError(
                f"the ledger {str(path)!r} cannot be opened for writing ({error}); check the rights"
            ) from error
        raise


def _damaged(path: Path, error: Exception) -> LedgerDamagedError:
    return LedgerDamagedError(
        f"the ledger {str(path)!r} is damaged or is no ledger ({error}); restore it from a backup, "
        "or move it away and run again"
    )


def file_system(folder: Path) -> str:
    """Type of the file system a folder is on, as Linux names it; empty on other systems."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return ""
    real = str(folder.resolve())
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
