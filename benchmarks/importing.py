"""Importing a file of CounterFact's size: seconds of one core and memory, beside `json.load` of the same file.

`python -m benchmarks.importing` writes 21,919 rows (49 MB) into a temporary folder and reads them in three ways, each
in its own process, since a process's peak never falls.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from facts.importers import import_file

ROWS = 21_919
"""Rows of CounterFact."""


def write_file(path: Path, rows: int) -> int:
    """A CounterFact file on one line, as `json.dump` writes it; returns its bytes."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            file.write(("," if index else "[") + json.dumps(_row(index)))
        file.write("]")
    return path.stat().st_size


def _row(index: int) -> dict[str, object]:
    university = f"University number {index} of Madrid"
    return {
        "case_id": index,
        "pararel_idx": 2796 + index,
        "requested_rewrite": {
            "prompt": "{}, which is located in",
            "relation_id": "P17",
            "target_new": {"str": "Sweden", "id": "Q34"},
            "target_true": {"str": "Spain", "id": "Q29"},
            "subject": university,
        },
        "paraphrase_prompts": [f"Some unrelated words {i}. {university} is located in" for i in range(2)],
        "neighborhood_prompts": [f"The neighbouring university {i} of {index} is located in" for i in range(10)],
        "attribute_prompts": [f"The university {i} of Malmö, which is located in" for i in range(10)],
        "generation_prompts": [f"{university} is surrounded by many {i}" for i in range(10)],
    }


def load(path: Path) -> None:
    """Read the whole file at once, without checking rows."""
    assert len(json.loads(path.read_text(encoding="utf-8"))) > 0


def check(path: Path) -> None:
    """Read every row as a case and discard it."""
    assert import_file(path).rejected == 0


def convert(path: Path) -> None:
    """Read every row as a case and write it in Engram's format."""
    assert import_file(path, out=path.with_suffix(".jsonl")).rejected == 0


WAYS: dict[str, Callable[[Path], None]] = {"json.load": load, "check": check, "convert": convert}


def measure(way: str, path: Path) -> tuple[float, float]:
    """(seconds of one core, peak memory in MB) of a fresh process, the interpreter and imports included."""
    command = [sys.executable, "-m", "benchmarks.importing", "--way", way, "--file", str(path)]
    seconds, kilobytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, kilobytes / 1024


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.importing", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        WAYS[options.way](options.file)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counterfact.json"
        size = write_file(path, options.rows)
        print(f"{options.rows} rows, {size / 1e6:.1f} MB\n")
        print("| | seconds of one core | peak memory, MB |\n|---|---|---|")
        for way in WAYS:
            seconds, megabytes = measure(way, path)
            print(f"| {way} | {seconds:.1f} | {megabytes:.0f} |")


if __name__ == "__main__":
    main()
