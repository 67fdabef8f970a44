"""When all workers are at work, and what counts from there."""

from pathlib import Path

import pytest

from benchmarks.executors import Round, all_at_work, measured, summary
from benchmarks.kills.trials import draws
from experiments.workers.inline import Inline


def test_the_rate_counts_from_when_all_are_at_work() -> None:
    spans = [(5.0, 6.0), (1.0, 2.0), (2.0, 4.0), (3.0, 5.0), (4.0, 6.0)]
    assert all_at_work(spans, 1) == 1.0
    assert all_at_work(spans, 2) == 3.0, "the one that ended at 2 was alone"
    with pytest.raises(ValueError, match="5 cells were never 3 at once; give more --facts"):
        all_at_work(spans, 3)


def test_rounds_are_held_against_those_of_the_same_moment() -> None:
    slow = [Round(1.0, 2.0, (0.5, 0.5), (b"a", b"b")), Round(3.0, 1.0, (1.0, 1.0), (b"c", b"d"))]
    fast = [Round(5.0, 4.0, (0.5, 0.5), (b"a", b"b")), Round(7.0, 1.5, (1.0, 1.0), (b"c", b"x"))]
    found = summary("processes", fast, slow)
    assert (found["x first"], found["lowest"], found["highest"]) == (1.75, 1.5, 2.0)
    assert (found["cells"], found["bit-equal"]) == (4, 3)
    assert (found["start-up (s)"], found["processor seconds in all"]) == (6.0, 3.0)


def test_a_round_keeps_every_result(tmp_path: Path) -> None:
    found = measured(tmp_path, draws(5, seconds=0.01), Inline())
    assert len(set(found.payloads)) == len(found.processor) == 5
    assert 0 < found.rate < 100
    assert found.startup >= 0
