"""A run's results as tables: one row a cell, or one a score; averages; files for other programs.

Numbers measured in different ways have no common mean: an average over several protocols or units raises an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.places import paths_in, portable, without
from facts.spreadsheet import defused

ONE_WAY = ("protocol", "unit")
"""Columns that must have one value within a mean."""
FORMATS = ("parquet", "csv", "latex")


def cells_frame(ledger: Ledger, run: str) -> pd.DataFrame:
    """One row per cell: key, kind, status, attempts, reason, settings, the result's single values, and notes.

    Nested settings have dotted names, such as `fact.subject`; lists and arrays are left out, and full paths are
    shortened (`experiments.places`).

    Raises:
        LedgerDamagedError: if a cell is not as it was written.
    """
    model = {"model": ledger.info(run).model}
    return pd.DataFrame([_row(entry, paths_in([model, entry.spec])) for entry in entries(ledger, run)])


def scores_frame(ledger: Ledger, run: str) -> pd.DataFrame:
    """One row per score of every finished edit: the cell's settings and the score's record.

    Raises:
        LedgerDamagedError: if a cell is not as it was written.
    """
    rows = []
    for entry in entries(ledger, run):
        scores = (entry.result or {}).get("scores", ())
        if isinstance(scores, list):  # the kind `protocols` has a dict, and its study writes the table
            rows += [_settings(entry) | score for score in scores]
    return pd.DataFrame(rows)


def axes(scores: pd.DataFrame) -> list[str]:
    """Columns of `scores_frame` with settings in which edits by one method differ: their scores have no common mean."""
    settings = [str(name) for name in scores.columns]
    settings = [name for name in settings if name.startswith("settings.") or name in ("seed", "texts")]
    return [name for name in settings if scores.groupby("method")[name].nunique(dropna=False).max() > 1]


def averaged(frame: pd.DataFrame, value: str, by: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Mean of a column over the rows of each group, with n and a 95 % bootstrap interval over rows.

    Rows without the value are left out.

    Raises:
        ValueError: if a column is missing, or a group holds several protocols or units.
    """
    from metrics.statistics import bootstrap

    missing = [name for name in (value, *by) if name not in frame]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}; choose from {', '.join(map(str, frame.columns))}")
    rows = []
    for group, part in frame[frame[value].notna()].groupby(list(by), sort=False, dropna=False):
        for column in ONE_WAY:
            if column in part and part[column].nunique(dropna=False) > 1:
                several = ", ".join(sorted(map(str, part[column].unique())))
                raise ValueError(
                    f"{dict(zip(by, group, strict=True))} holds several {column}s ({several}); numbers measured in "
                    f"different ways have no common mean, so add {column!r} to the grouping"
                )
        values = [float(number) for number in part[value]]
        low, high = bootstrap(values, seed=seed) or (None, None)
        names = dict(zip(by, group, strict=True))
        rows.append(names | {value: float(np.mean(values)), "ci_low": low, "ci_high": high, "n": len(values)})
    return pd.DataFrame(rows, columns=[*by, value, "ci_low", "ci_high", "n"])


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table in the format its name ends in, .parquet, .csv or .tex; returns the path.  Replaces a file
    atomically.

    In CSV, text that a spreadsheet would run as a formula gets an apostrophe in front.

    Raises:
        ValueError: if the name ends in something else.
    """
    writers: dict[str, Callable[[Path], Any]] = {
        ".parquet": lambda target: frame.to_parquet(target, index=False),
        ".csv": lambda target: frame.map(defused).to_csv(target, index=False, lineterminator="\n"),
        ".tex": lambda target: target.write_text(latex(frame), encoding="utf-8"),
    }
    if path.suffix not in writers:
        raise ValueError(f"cannot write a table to {str(path)!r}; end its name in {', '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".tmp")
    writers[path.suffix](whole)
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(path)
    return path


def latex(frame: pd.DataFrame) -> str:
    """The table in booktabs form; numbers to four digits."""
    styled = frame.style.format(escape="latex", precision=4, na_rep="--").format_index(escape="latex", axis=1)
    return str(styled.hide(axis=0).to_latex(hrules=True))


def _row(entry: Entry, paths: set[str]) -> dict[str, Any]:
    result, notes = portable(entry.result or {}), entry.notes
    about = {"position": entry.position, "key": entry.key, "kind": entry.kind, "status": entry.status}
    about |= {"attempts": entry.attempts, "reason": without(entry.reason, paths)}
    return about | _settings(entry) | _flat(result) | {f"note.{name}": value for name, value in _flat(notes).items()}


def _settings(entry: Entry) -> dict[str, Any]:
    return {"cell": entry.key[:12]} | _flat(portable(entry.spec))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Single values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple | np.ndarray):
            flat[f"{prefix}{name}"] = value
    return flat
