"""The names of stages find their way to whoever wants them, through parts of parts."""

from facts.stages import name_stage, part


class Told:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.names: list[str] = []

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def stage(self, name: str) -> None:
        self.names.append(name)


def test_a_part_counts_its_steps_in_those_of_the_whole_and_passes_names_on() -> None:
    told = Told()
    inner = part(part(told, 50, 100), 0, 50)
    assert inner is not None
    inner(1, 2)  # half of the first half of the second half: 50 + 50 / 4
    name_stage(inner, "search")
    assert (told.steps, told.names) == ([(62, 100)], ["search"])


def test_who_wants_no_names_is_told_none() -> None:
    assert part(None, 0, 50) is None
    name_stage(None, "search")
    name_stage(lambda done, total: None, "search")
