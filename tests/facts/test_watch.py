"""Progress and cancellation of long work."""

import pytest

from facts.watch import UNWATCHED, Cancelled, Watch


def test_steps_of_a_part_are_told_as_steps_of_the_whole() -> None:
    told: list[tuple[int, int, str]] = []
    whole = Watch(lambda done, of, stage: told.append((done, of, stage)))
    half = whole.part(50, 100)
    half.step(0, 4, "scoring")
    half.step(1, 4)
    half.part(0, 2, 4).step(1, 1)  # a part of a part: steps 0 to 2 of 4, which are 50 to 75 of 100
    half.part(0, 1, 1).step(0, 0)  # nothing to do
    assert told == [(50, 100, "scoring"), (62, 100, ""), (75, 100, ""), (50, 100, "")]


def test_a_step_and_a_check_stop_work_that_is_not_wanted() -> None:
    told: list[int] = []
    wanted = [True]
    watch = Watch(lambda done, of, stage: told.append(done), lambda: not wanted[0])
    watch.step(1, 2)
    wanted[0] = False
    with pytest.raises(Cancelled):
        watch.step(2, 2)
    with pytest.raises(Cancelled):
        watch.part(0, 1).check()
    assert told == [1, 2], "the step that was done is told before the work stops"


def test_nothing_is_asked_of_work_that_nobody_watches() -> None:
    UNWATCHED.step(1, 2, "tracing")
    UNWATCHED.part(0, 1).check()
