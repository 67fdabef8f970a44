"""When an edit is called broken, by hand."""

import pytest

from editing import Diagnostic
from experiments.guard import why_broken


@pytest.mark.parametrize(
    ("before", "after", "answer", "broken"),
    [(30.0, 60.0, 0.5, 0), (30.0, 60.1, 0.5, 1), (30.0, float("inf"), 0.009, 2), (30.0, 31.0, 0.01, 0)],
)
def test_bounds(before: float, after: float, answer: float, broken: int) -> None:
    numbers = {"perplexity before": before, "perplexity after": after, "p(new) after": answer}
    assert len(why_broken([Diagnostic(name, value, "", "") for name, value in numbers.items()])) == broken


def test_what_was_not_measured_is_not_held_against_an_edit() -> None:
    assert why_broken([]) == ()
