"""The table of how prompts are put to a model."""

from __future__ import annotations

from benchmarks.asking import rows
from tests.tiny import tiny_model


def test_every_case_is_asked_of_a_model() -> None:
    found = list(rows(tiny_model("gpt2")))
    cases = [row.case.split()[0] for row in found]
    assert sorted(set(cases)) == ["A1", "A2", "A4", "A6"]  # it has no start token and no chat template
    (subject,) = (row for row in found if row.case.startswith("A4"))
    assert subject.now.strip("' ") == "Iran"
    assert all(row.now == "0" for row in found if row.case.startswith("A6"))
    assert all("p " in row.before and "rank" in row.now for row in found if row.case[:2] in ("A1", "A2"))
