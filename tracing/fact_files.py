"""Facts from a file: CSV with a header, JSON Lines, or one JSON list, as the field's data sets come.

Columns or keys: `subject`; `prompt` (whole) or `template` (with `{}` for the subject); the answer as `target_true`,
`answer` or `attribute`; `relation` if there is one.  Anything else is passed over.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facts import Fact
from facts.regular import check_regular

ANSWERS = ("target_true", "answer", "attribute")


def read_facts(path: str | Path) -> list[Fact]:
    """Every fact of a .csv, .jsonl or .json file, in order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the record and what is wrong with it, or the file if it cannot be read as its ending says.
    """
    path = Path(path)
    check_regular(path, "give the path of a file of facts")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    facts = []
    for number, record in enumerate(_records(path), 1):
        try:
            facts.append(_fact(record))
        except ValueError as error:
            raise ValueError(f"record {number} of {str(path)!r}: {error}") from None
    if not facts:
        raise ValueError(f"the file {str(path)!r} holds no fact; give a record for each, with subject and prompt")
    return facts


def _records(path: Path) -> Iterator[Any]:
    ending = path.suffix.lower()
    if ending not in (".csv", ".jsonl", ".json"):
        raise ValueError(f"cannot read facts from {str(path)!r}; end its name in .csv, .jsonl or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if ending == ".csv":
            yield from csv.DictReader(text.splitlines())
        elif ending == ".json":
            yield from json.loads(text)
        else:
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} cannot be read as {ending[1:]}: {error}") from None


def _fact(record: Any) -> Fact:
    if not isinstance(record, dict):
        raise ValueError(f"it is {record!r}; expected names with values")
    values = {name: str(value) for name, value in record.items() if value is not None}
    subject = values.get("subject", "")
    if not subject.strip():
        raise ValueError("it has no subject")
    # CounterFact's prompts hold a placeholder, known_1000's the subject itself
    prompt = values.get("template") or values.get("prompt", "")
    answer = next((values[name] for name in ANSWERS if values.get(name)), "")
    if "{}" in prompt:
        return Fact(subject, prompt, answer.strip(), values.get("relation", ""))
    return Fact.from_prompt(prompt, subject, answer.strip(), values.get("relation", ""))
