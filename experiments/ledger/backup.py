"""A copy of a ledger while it is in use, and a ledger made from such a copy."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from experiments.ledger.ledger import Ledger
from experiments.ledger.records import damaged
from experiments.ledger.schema import FILE, LedgerError, translated


def back_up(ledger: Ledger, target: Path) -> int:
    """Write the whole ledger, as it is at one moment, into one new file; others may write to it meanwhile.

    Returns:
        Cells in the copy, whose results were all held against their hashes.

    Raises:
        LedgerError: if the file is there already, cannot be written, or a result is damaged.
    """
    if target.exists():
        raise LedgerError(f"there is {str(target)!r} already; choose another name")
    if not target.parent.is_dir():
        raise LedgerError(f"there is no folder {str(target.parent)!r}; make it first")
    with translated(ledger.path), closing(sqlite3.connect(ledger.path)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    return _checked(ledger)


def restore(source: Path, folder: Path) -> int:
    """Make a ledger in a folder from a backup.

    Returns:
        Its cells, whose results were all held against their hashes.

    Raises:
        LedgerError: if the folder has a ledger, the backup is none, or a result in it is damaged.
        FileNotFoundError: if there is no such backup.
    """
    if not source.is_file():
        raise FileNotFoundError(f"there is no backup {str(source)!r}; give the file that `backup` wrote")
    with source.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":  # SQLite takes an empty file for an empty ledger
            raise LedgerError(f"{str(source)!r} is no backup of a ledger; give the file that `backup` wrote")
    if (folder / FILE).exists():
        raise LedgerError(f"{str(folder)!r} has a ledger already; give a new folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE}.part"
    shutil.copyfile(source, part)
    part.rename(folder / FILE)
    try:
        with Ledger(folder, create=False) as ledger:
            return _checked(ledger)
    except LedgerError:
        (folder / FILE).unlink()
        raise


def _checked(ledger: Ledger) -> int:
    wrong = [key for run in ledger.runs() for key in damaged(ledger, run)]
    if wrong:
        raise LedgerError(
            f"{len(wrong)} results do not match their hashes, {wrong[0][:12]} among them; run `python -m experiments "
            "doctor --mend` on the ledger they come from"
        )
    return sum(sum(ledger.counts(run).values()) for run in ledger.runs())
