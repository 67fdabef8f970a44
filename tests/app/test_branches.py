"""Two branches compared by what they say and how they score."""

from __future__ import annotations

import pytest

from app.branches import compare_branches
from editing.grace import GraceConfig, GraceMethod
from editing.ledger import Ledger
from facts import EditRequest, Fact, Probe
from metrics import EvaluationCancelled
from tests.editing import made as by_hand
from tests.tiny import tiny_model

REQUEST = EditRequest(
    Fact("Berlin", "{} is the capital of", "Rome"), "of", (Probe("paraphrase", "In Berlin is", "of"),)
)


def test_the_branch_with_the_edit_scores_it_and_the_other_does_not() -> None:
    model = tiny_model("gpt2")
    ledger = Ledger(model)
    ledger.branch("edited")
    ledger.add(GraceMethod().compute(model, [REQUEST], GraceConfig(layer=3, steps=60, learning_rate=0.5)))
    seen: list[tuple[int, int]] = []
    found = compare_branches(ledger, "main", "edited", progress=lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]
    assert len(found.first) == len(found.second) == 1
    assert found.first[0].about["edits"] == 0
    before, after = found.first[0].score("reliability.p_answer"), found.second[0].score("reliability.p_answer")
    assert before.value == before.before == after.before
    assert (after.value or 0) > 0.3 > 10 * (before.value or 1)
    assert found.comparison.answers[0].first != found.comparison.answers[0].second
    frame = found.to_frame().set_index("metric")
    assert frame.loc["Reliability", "main"] == frame.loc["Reliability", "unedited"] == 0.0
    assert frame.loc["Reliability", "difference"] == frame.loc["Reliability", "edited"]
    assert found.summaries is not None


def test_bad_input_is_told() -> None:
    model = tiny_model("gpt2")
    ledger = Ledger(model)
    ledger.add(by_hand.made(model, by_hand.low_rank(model, 0, 0)))
    ledger.branch("other")
    with pytest.raises(ValueError, match="given twice"):
        compare_branches(ledger, "main", "main")
    with pytest.raises(ValueError, match="did you mean 'other'"):
        compare_branches(ledger, "main", "othr")
    with pytest.raises(EvaluationCancelled):
        compare_branches(ledger, "main", "other", cancelled=lambda: True)
