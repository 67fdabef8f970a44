"""Write a study's files: a figure (png, pdf), a table (csv, md), and a record with everything to make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.ledger.ledger import Ledger
from experiments.places import shown_name
from experiments.studies import record, unfinished, write_record
from experiments.summary import write_table
from facts.records import as_lists

if TYPE_CHECKING:
    import pandas as pd

    from experiments.studies.parts.plots import Figure

FORMATS: tuple[Literal["png", "pdf"], ...] = ("png", "pdf")


@dataclass(frozen=True, eq=False)
class Output:
    """The contents of a summary."""

    title: str
    """Without the model's name, which is put before it."""
    figure: Figure
    table: pd.DataFrame
    """All numbers, for other programs."""
    shown: str
    """The main numbers as Markdown, for people."""
    found: Mapping[str, Any]
    """The main numbers, with n, for the record; plain JSON."""


def write(ledger: Ledger, run: str, folder: Path, output: Output) -> list[Path]:
    """Write figure, table and record; the files written."""
    from tracing.plots.sheet import export

    folder.mkdir(parents=True, exist_ok=True)
    info = ledger.info(run)
    study, title = str(info.about["study"]), f"{shown_name(info.model)}: {output.title}"
    whole = {**record(ledger, run), "found": as_lists(output.found)}
    about = json.dumps(whole, ensure_ascii=False, sort_keys=True, allow_nan=False)
    files = []
    for fmt in FORMATS:
        files.append(folder / f"{study}.{fmt}")
        files[-1].write_bytes(export(output.figure, fmt, title=title, record=about))
    files.append(write_table(output.table, folder / f"{study}.csv"))
    files.append(folder / f"{study}.md")
    note = unfinished(ledger, run)
    files[-1].write_text("\n\n".join(filter(None, (title, note, output.shown))), encoding="utf-8")
    return [*files, write_record(folder / "record.json", whole)]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, the first column to the left; pipes and line breaks in texts are escaped."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"

    rule = "|---|" + "---:|" * (len(headers) - 1)
    return "\n".join([line(headers), rule, *(line(row) for row in rows)]) + "\n"


def between(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval: "0.123 (0.100 to 0.150)"; "–" for None."""
    if value is None or isnan(value):
        return "–"
    if low is None or high is None or isnan(low) or isnan(high):
        return _fixed(value, digits)
    return f"{_fixed(value, digits)} ({_fixed(low, digits)} to {_fixed(high, digits)})"


def _fixed(value: float, digits: int) -> str:
    """Remove the minus sign of a rounded zero."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"
