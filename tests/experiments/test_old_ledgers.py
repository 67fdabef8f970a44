"""A ledger written before the package had folders: it opens, shows the same results, and nothing is computed again.

`data/old` was made with commit a390c82: one cell of each kind on a tiny GPT-2, and the tables of that time.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from editing.registry import revision_of
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
    """Left out are cells that rightly have another key now: of GRACE and FT-M, which compute something else since and
    have a setting more, in which such cells differ.
    """
    before = ledger.info("old")
    cells = [Cell(cell["kind"], cell["spec"]) for cell in json.loads((DATA / "plan.json").read_text())]
    same = tuple(cell for cell in cells if cell.spec.get("method") not in ("grace", "ft-m"))
    ledger.add(Plan("again", "tiny", same, about=before.about), before.identity)
    assert ledger.info("old") == before
    end = execute(ledger, "again", Idle())
    assert (end.done, end.failed, end.total) == (2, 1, 3)
    assert (revision_of("grace"), revision_of("ft-m")) > (2, 1)


def test_a_cell_of_an_older_version_of_its_kind_is_not_computed_by_the_newer(ledger: Ledger) -> None:
    (key,) = [row[0] for row in ledger.read("SELECT key FROM cells WHERE kind = 'protocols'")]
    with ledger.write() as connection:
        connection.execute("DELETE FROM results WHERE key = ?", (key,))
        connection.execute("UPDATE cells SET status = 'todo' WHERE key = ?", (key,))
    end = execute(ledger, "old", Idle())
    assert (end.done, end.failed, end.total) == (6, 2, 8)
    reasons = [failure["reason"] for failure in ledger.failures("old")]
    assert any(reason.startswith("the kind 'protocols' computes something else since") for reason in reasons)


def test_a_backup_gives_the_same_ledger_in_another_folder(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.__main__ import main

    file, folder = tmp_path / "kept.sqlite", tmp_path / "new"
    assert main(["backup", str(file), "--out", str(ledger.folder)]) == 0
    assert main(["restore", str(file), "--out", str(folder)]) == 0
    with Ledger(folder, create=False) as restored:
        pd.testing.assert_frame_equal(cells_frame(restored, "old"), cells_frame(ledger, "old"))
        assert restored.info("old") == ledger.info("old")
    assert main(["restore", str(file), "--out", str(folder)]) == 2
    assert "has a ledger already; give a new folder" in capsys.readouterr().err


def test_a_damaged_backup_is_not_restored(ledger: Ledger, tmp_path: Path) -> None:
    from experiments.ledger.backup import back_up, restore
    from experiments.ledger.schema import LedgerError

    file = tmp_path / "kept.sqlite"
    back_up(ledger, file)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE results SET payload = x'00' WHERE key = (SELECT key FROM results LIMIT 1)")
    connection.close()
    with pytest.raises(LedgerError, match="1 results do not match their hashes"):
        restore(file, tmp_path / "new")
    assert not (tmp_path / "new" / "ledger.sqlite").exists()
    for nothing in (b"no database" * 1000, b""):
        file.write_bytes(nothing)
        with pytest.raises(LedgerError, match="is no backup of a ledger; give the file that `backup` wrote"):
            restore(file, tmp_path / "newer")
