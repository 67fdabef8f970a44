"""Full disks and flipped bits, for `benchmarks.kills`."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import damaged, entries
from experiments.ledger.schema import LedgerError, LedgerFullError
from experiments.plan import Cell, Plan
from experiments.runner import execute
from experiments.workers.inline import Inline


def plan_of_draws(count: int, n: int) -> Plan:
    """Cells of n numbers each."""
    return Plan("draws", "", tuple(Cell("draw", {"seed": seed, "n": n}) for seed in range(count)))


def disk_trial(folder: Path, disks: int) -> dict[str, Any]:
    """Run on disks (tmpfs) of several sizes that fill up; read while full, enlarge the disk, and resume.

    Raises:
        subprocess.CalledProcessError: if this user may not mount.
    """
    cells, full, lost, other, slowest, resumed = 200, 0, 0, 0, 0.0, 0
    for number in range(disks):
        place = folder / f"disk{number}"
        place.mkdir()
        size = 400 + 37 * number
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True)
        try:
            kept: list[str] = []
            with Ledger(place) as ledger:
                ledger.add(plan_of_draws(cells, 1000), identity_of(None))
                began = time.monotonic()
                try:
                    execute(ledger, "draws", Inline(), progress=lambda now: None)
                except LedgerFullError:
                    full += 1
                    kept = [entry.key for entry in entries(ledger, "draws") if entry.status == "done"]
                except LedgerError:
                    other += 1
                slowest = max(slowest, time.monotonic() - began)
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            with Ledger(place) as ledger:
                present = {entry.key for entry in entries(ledger, "draws") if entry.status == "done"}
                lost += len(set(kept) - present)
                resumed += execute(ledger, "draws", Inline()).done == cells
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return {
        "disks": disks,
        "said to be full": full,
        "other errors": other,
        "finished results lost": lost,
        "resumed to the end": resumed,
        "slowest until told (s)": round(slowest, 2),
    }


def flip_trial(folder: Path, flips: int) -> dict[str, Any]:
    """Flip one bit at a time, in the bytes of a result and anywhere in the file."""
    whole = folder / "whole"
    with Ledger(whole) as ledger:
        ledger.add(plan_of_draws(50, 100), identity_of(None))
        execute(ledger, "draws", Inline())
        rows = list(entries(ledger, "draws"))
    bits = (whole / "ledger.sqlite").read_bytes()
    places = [bits.index(entry.payload or b"?") for entry in rows]
    source, caught, named, wrong, seen = random.Random(0), 0, 0, 0, 0
    for number in range(flips):
        row = number % len(rows)
        place = places[row] + source.randrange(len(rows[row].payload or b""))
        with _flipped(folder / "broken", bits, place, source.randrange(8)) as ledger:
            broken = damaged(ledger, "draws")
            caught += bool(broken)
            named += list(broken) == [rows[row].key]
    for _ in range(flips):
        try:
            with _flipped(folder / "broken", bits, source.randrange(len(bits)), source.randrange(8)) as ledger:
                for entry in entries(ledger, "draws"):
                    wrong += entry.payload != rows[entry.position].payload or entry.spec != rows[entry.position].spec
        except LedgerError:
            seen += 1
    return {
        "flips in results": flips,
        "caught": caught,
        "named the row": named,
        "flips anywhere": flips,
        "refused": seen,
        "wrong numbers shown": wrong,
    }


def _flipped(folder: Path, bits: bytes, place: int, bit: int) -> Ledger:
    """The ledger with one bit changed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    changed = bytearray(bits)
    changed[place] ^= 1 << bit
    (folder / "ledger.sqlite").write_bytes(changed)
    return Ledger(folder)
