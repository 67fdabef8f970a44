"""Nothing is lost, written twice or changed when processes are killed; `benchmarks.kills` does the same many times."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kills.disks import flip_trial
from benchmarks.kills.trials import draws, killed_processes, killed_workers
from experiments.workers.processes import Processes


def test_no_acknowledged_result_is_lost_when_its_writer_is_killed(tmp_path: Path) -> None:
    found = killed_processes(tmp_path, draws(400), "writer", kills=5, longest=0.05)
    assert found["acknowledged"] > 100
    assert (found["acknowledged and lost"], found["written twice"], found["damaged"], found["unreadable"]) == (0,) * 4
    assert found["bit-equal"] == found["cells"] == 400


def test_a_run_whose_controller_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = killed_processes(tmp_path, draws(120, seconds=0.01), "processes", kills=3)
    assert found["bit-equal"] == found["cells"] == 120
    assert (found["acknowledged and lost"], found["written twice"], found["workers left behind"]) == (0, 0, 0)
    assert found["computed again"] <= 2 * 3, "at most what two workers had in hand"


def test_killed_workers_cost_a_cell_each(tmp_path: Path) -> None:
    found = killed_workers(tmp_path, draws(60, seconds=0.01), Processes(2), kills=3, every=10)
    assert found["bit-equal"] == found["cells"] == 60
    assert (found["kills"], found["failed"], found["written twice"]) == (3, 0, 0)
    assert found["computed again"] <= 3


def test_one_flipped_bit_is_found_and_its_row_named(tmp_path: Path) -> None:
    found = flip_trial(tmp_path, 40)
    assert found["caught"] == found["named the row"] == found["flips in results"] == 40
    assert found["wrong numbers shown"] == 0
