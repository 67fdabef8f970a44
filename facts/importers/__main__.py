"""`python -m facts.importers FILE`: its format, its number of cases, and the rows that cannot be read."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from facts.importers import FORMATS, Preview, Summary, import_file, preview
from facts.importers.formats.engram import record_of
from facts.language.shell import complain, told
from facts.pipes import outlive_reader
from facts.words import counted


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 if a case was read."""
    options = _options(arguments)
    try:
        rejected = Path(options.rejected or f"{os.path.splitext(options.file)[0]}.rejected.jsonl")
        keep = options.keep_same_answers
        summary = import_file(options.file, options.out, rejected, options.format, keep_same_answers=keep)
        shown = None
        if options.preview:
            shown = preview(options.file, options.preview, options.format, keep_same_answers=keep)
    except ValueError as error:
        complain(error)
        return 2
    if options.json:
        print(json.dumps(_record(options.file, summary, rejected, options.out, shown), indent=2))
    else:
        print(_words(options.file, summary, rejected, options.out, shown))
    return 0 if summary.cases else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m facts.importers", description=told(__doc__ or ""))
    parser.add_argument("file", metavar="FILE", help="a dataset as published: JSON, JSON Lines or CSV")
    parser.add_argument("--format", choices=FORMATS, help="told from the content if not given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--preview", type=_count, default=0, metavar="N", help="also show the first N rows as cases")
    parser.add_argument("--out", metavar="FILE", help="write the cases as JSON Lines, in Engram's own form")
    parser.add_argument(
        "--rejected", metavar="FILE", help="where rows set aside go; by default beside FILE, in .rejected.jsonl"
    )
    parser.add_argument(
        "--keep-same-answers",
        action="store_true",
        help="read rows whose new answer is one of the true ones too, as the published counts have them",
    )
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows; write 0 or more")
    return int(text)


def _record(file: str, summary: Summary, rejected: Path, out: str | None, shown: Preview | None) -> dict[str, Any]:
    return {
        "file": file,
        "format": summary.format,
        "title": summary.title,
        "cases": summary.cases,
        "requests": summary.requests,
        "known": summary.known,
        "probes": dict(sorted(summary.probes.items())),
        "noted": summary.noted,
        "rejected": summary.rejected,
        "same_answers": summary.same_answers,
        "rejected_file": str(rejected) if summary.rejected else None,
        "rejected_rows": [
            {"row": entry.row, "line": entry.line, "field": entry.field, "reason": entry.reason}
            for entry in summary.listed
        ],
        "out": out,
        **({"preview": [record_of(case) for case in shown.cases]} if shown else {}),
    }


def _words(file: str, summary: Summary, rejected: Path, out: str | None, shown: Preview | None) -> str:
    lines = [f"{file}: {summary.title} ({summary.format}), {counted(summary.cases, 'case')}"]
    known = [f"{counted(summary.known, 'fact')} to trace"] if summary.known else []
    parts = [counted(summary.requests, "edit"), *known]
    lines.append("  " + ", ".join([*parts, *(f"{n} {kind}" for kind, n in sorted(summary.probes.items()))]))
    if summary.noted:
        lines.append(f"  {counted(summary.noted, 'case')} with something assumed; the notes say what")
    if out is not None:
        lines.append(f"  written to {out}")
    if summary.rejected:
        same = f" ({summary.same_answers} with a new answer that is a true one)" if summary.same_answers else ""
        lines.append(f"  {counted(summary.rejected, 'row')} set aside in {rejected}{same}:")
        lines += [f"    {entry}" for entry in summary.listed[:10]]
    for case in shown.cases if shown else ():
        lines += [f"  {case.id}: {fact.prompt} … {fact.target_true or '?'}" for fact in case.facts]
    return "\n".join(lines)


if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
