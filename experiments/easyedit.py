"""A run's edits as EasyEdit's `results.json`: a file for each method with its settings, an entry for each edit.

The format is that of `metrics.easyedit_export`.  Only cells of the kind `protocols` measured under the protocol
`easyedit` have an entry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.cells.protocols import case_in, scores_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.places import shown_name
from experiments.plan import canonical

PROTOCOL = "easyedit"


def write_results(ledger: Ledger, run: str) -> Iterator[Path]:
    """Write `easyedit/METHOD.json` into the run's folder, for each way of editing; the files written.

    Raises:
        ValueError: if no finished cell was measured under the protocol.
        LedgerDamagedError: if a cell is not as it was written.
    """
    by_way: dict[str, list[dict[str, Any]]] = {}
    stems: dict[str, str] = {}
    for entry in entries(ledger, run):
        if entry.kind == "protocols" and entry.payload is not None and PROTOCOL in entry.spec["protocols"]:
            way = canonical({name: value for name, value in entry.spec.items() if name not in ("request", "case")})
            by_way.setdefault(way, []).append(_result(entry))
            layer = entry.spec["layer"]
            stems[way] = entry.spec["method"] if layer is None else f"{entry.spec['method']}-layer{layer}"
    if not by_way:
        raise ValueError(
            f"run {run!r} has no finished edit measured under the protocol {PROTOCOL!r}, and EasyEdit's shape holds no "
            "other numbers; run `python -m experiments run methods-by-protocol` and export that"
        )
    several = Counter(stems.values())
    folder = ledger.folder / run / "easyedit"
    folder.mkdir(parents=True, exist_ok=True)
    for way, results in by_way.items():
        other = f"-{hashlib.sha256(way.encode()).hexdigest()[:8]}" if several[stems[way]] > 1 else ""
        path = folder / f"{stems[way]}{other}.json"
        whole = path.with_name(path.name + ".tmp")
        whole.write_text(json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        whole.replace(path)
        yield path


def _result(entry: Entry) -> dict[str, Any]:
    from metrics.easyedit_export import easyedit_result

    scores = scores_of(entry.result or {})[PROTOCOL]
    return easyedit_result(
        case_in(entry.spec), replace(scores, model=shown_name(scores.model)), entry.notes.get("edit_seconds")
    )
