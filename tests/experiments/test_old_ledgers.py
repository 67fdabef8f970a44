"""A ledger written before the package had folders: it opens, shows the same results, and nothing is computed again.

`data/old` was made with commit a390c82: one cell of each kind on a tiny GPT-2, and the tables of that time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from experiments.ledger.ledger import Ledger
from experiments.ledger.records import damaged
from experiments.plan import Cell, Plan
from experiments.runner import execute
from experiments.summary import cells_frame, scores_frame
from experiments.workers.messages import Event, Ready, Setup, Task

DATA = Path(__file__).parent / "data" / "old"


class Idle:
    """An executor that must be given nothing."""

    name = "idle"
    slots = 1

    def start(self, setup: Setup) -> None:
        self.ready: list[Event] = [Ready(0)]

    def submit(self, slot: int, task: Task) -> None:
        raise AssertionError(f"a {task.kind} cell was to be computed again")

    def wait(self, seconds: float) -> Sequence[Event]:
        events, self.ready = self.ready, []
        return events

    def close(self) -> None:
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    shutil.copy(DATA / "ledger.sqlite", tmp_path)
    return Ledger(tmp_path, create=False)


def test_an_old_ledger_shows_the_same_results(ledger: Ledger) -> None:
    assert ledger.runs() == ["old"]
    assert damaged(ledger, "old") == {}
    for name, table in (("cells", cells_frame(ledger, "old")), ("scores", scores_frame(ledger, "old"))):
        now = pd.read_csv(StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(now, pd.read_csv(DATA / f"{name}.csv"))


def test_its_plan_gives_the_same_keys_and_resuming_runs_nothing(ledger: Ledger) -> None:
    """A method whose number in `REVISIONS` was raised since has other keys, and its cell is to be made anew here."""
    before = ledger.info("old")
    cells = tuple(Cell(cell["kind"], cell["spec"]) for cell in json.loads((DATA / "plan.json").read_text()))
    ledger.add(Plan("old", "tiny", cells, about=before.about), before.identity)
    assert ledger.info("old") == before
    end = execute(ledger, "old", Idle())
    assert (end.done, end.failed, end.total) == (7, 1, 8)
