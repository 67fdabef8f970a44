"""Plans of cheap cells, for tests of everything around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmarks.kills.cells  # noqa: F401 - registers the kinds "draw" and "poison"
from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan

IDENTITY = identity_of(None)


def draws(count: int, name: str = "draws", **more: Any) -> Plan:
    """Cells without a model, each the numbers of another seed."""
    return Plan(name, "", tuple(Cell("draw", {"seed": seed, **more}) for seed in range(count)))


def ledger_of(folder: Path, plan: Plan) -> Ledger:
    """A ledger with that plan."""
    ledger = Ledger(folder)
    ledger.add(plan, IDENTITY)
    return ledger


def payloads(ledger: Ledger, run: str = "draws") -> list[bytes | None]:
    """Every result of a run as bytes."""
    return [entry.payload for entry in entries(ledger, run)]
