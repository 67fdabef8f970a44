"""Runs as files: the JSON that the Workbench exports, read back with every field checked, and a zip of many.

A trace comes from Export, the scores of an edit from Report.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile

from pydantic import ValidationError

from app.runs.two_runs import overview
from app.session.run import EditRun, Run, TraceRun
from app.session.runs import add
from facts.spreadsheet import defused

LARGEST = 2 * 1024 * 1024
"""Bytes of one file."""


def read_run(text: str | bytes) -> Run:
    """A run from its JSON.

    Raises:
        ValueError: in one sentence, if it is not a run that the Workbench saved.
    """
    size = len(text)
    if size > LARGEST:
        raise ValueError(f"the file has {size / 2**20:.1f} MB; a saved run has at most {LARGEST / 2**20:.0f}")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the file is not UTF-8 text (byte {error.start}); choose a saved run") from None
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is not JSON ({str(error)[:80]}); choose a saved run") from None
    kinds: dict[str, type[Run]] = {"format": TraceRun, "scores": EditRun}
    kind = next((kinds[name] for name in kinds if isinstance(values, dict) and name in values), None)
    problem = "it holds neither a trace nor scores"
    if kind is not None:
        try:
            return kind.model_validate(values).of(text)
        except ValidationError as error:
            problem = _sentence(error)
    raise ValueError(f"the file is not a saved run: {problem}; choose JSON from Export or Report of the Workbench")


def _sentence(error: ValidationError) -> str:
    """The first error, in words."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # our own words
        return str(first["ctx"]["error"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    value = repr(first["input"])
    shown = value if len(value) <= 60 else f"{value[:60]}…"
    return f"{where} is {shown}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def open_file(name: str, data: bytes) -> str:
    """Add a saved run to the session; what is wrong with it, or an empty text.

    Args:
        name: what the reader calls the file.
    """
    try:
        add(read_run(data))
    except ValueError as error:
        return f"{name}: {error}."
    return ""


def file_name(run: Run, number: int | None = None) -> str:
    """A name for the run's file."""
    kind = f"trace-{run.site.partition('_')[0]}" if isinstance(run, TraceRun) else f"edit-{run.method}"
    words = re.sub(r"[^\w-]+", "-", f"{kind}-{run.subject}").strip("-").lower()[:80]
    return f"{words}.json" if number is None else f"{number:03d}-{words}.json"


def zipped(runs: list[Run]) -> bytes:
    """Every run's JSON, and a table of them all.  The same runs give the same bytes."""
    table = io.StringIO(newline="")
    rows = [{"file": file_name(run, i)} | row for i, (run, row) in enumerate(zip(runs, overview(runs), strict=True), 1)]
    writer = csv.DictWriter(table, list(rows[0]) if rows else ["file"])
    writer.writeheader()
    writer.writerows({name: defused(value) for name, value in row.items()} for row in rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [
            ("runs.csv", table.getvalue()),
            *((file_name(run, i), run.text) for i, run in enumerate(runs, 1)),
        ]:
            archive.writestr(zipfile.ZipInfo(name), text.encode("utf-8", "surrogatepass"))
    return packed.getvalue()
