"""Sequences: counts by hand on models whose every answer is written down."""

from __future__ import annotations

import json

import pytest

from facts import EditRequest, Fact, Probe
from metrics.sequence import Count, Held, Point, SequenceReport, held, kept_answers, summed, text_perplexity
from tests.metrics.known_model import KnownModel

WORDS = ("Tower", "Bridge", "is", "in", "stands", "Paris", "Rome", "Oslo", "Berlin")
TOWER = EditRequest(
    Fact("Tower", "{} is in", "Paris"),
    "Rome",
    (
        Probe("paraphrase", "Tower stands in", "Rome"),
        Probe("neighborhood", "Bridge is in", "Oslo"),
        Probe("same_subject", "Tower is", "Berlin"),
    ),
)
BRIDGE = EditRequest(Fact("Bridge", "{} stands in", "Oslo"), "Berlin", (Probe("neighborhood", "Tower is in", "Paris"),))


def model(**answers: str) -> KnownModel:
    table = {prompt.replace("_", " "): {answer: 0.9} for prompt, answer in answers.items()}
    return KnownModel(WORDS, table)


BASE = model(Tower_is_in="Paris", Tower_stands_in="Paris", Bridge_is_in="Oslo", Bridge_stands_in="Oslo")


def test_counts_of_a_model_by_hand() -> None:
    known = kept_answers(BASE, [TOWER, BRIDGE])  # type: ignore[arg-type]
    assert [probe.prompt for probe, right in known.items() if right] == ["Bridge is in", "Tower is in"]
    edited = model(Tower_is_in="Rome", Tower_stands_in="Paris", Bridge_is_in="Oslo", Bridge_stands_in="Oslo")
    tower, bridge = held(edited, [TOWER, BRIDGE], known)  # type: ignore[arg-type]
    # "Tower is" was never known, so it cannot be lost
    assert tower == Held(Count(1, 1), Count(0, 1), Count(1, 1))
    assert bridge == Held(Count(0, 1), Count(0, 0), Count(0, 1))
    assert summed([tower, bridge]) == Held(Count(1, 2), Count(0, 1), Count(1, 2))
    assert Count(0, 0).share is None


def test_another_name_of_an_answer_is_the_answer() -> None:
    probe = Probe("neighborhood", "Bridge is in", "Berlin", aliases=("Oslo",))
    request = EditRequest(Fact("Tower", "{} is in", "Paris"), "Rome", (probe,))
    known = kept_answers(BASE, [request])  # type: ignore[arg-type]
    assert known == {probe: True}
    assert held(BASE, [request], known)[0].locality == Count(1, 1)  # type: ignore[arg-type]


def test_a_longer_true_answer_beats_the_new_one() -> None:
    request = EditRequest(Fact("Tower", "{} is in", "Rome Oslo"), "Rome")
    said = KnownModel(WORDS, {"Tower is in": {"Rome": 0.9}, "Tower is in Rome": {"Oslo": 0.9}})
    assert held(said, [request], {})[0].reliability == Count(0, 1)  # type: ignore[arg-type]


def report() -> SequenceReport:
    good, bad = Held(Count(1, 1), Count(2, 2), Count(3, 4)), Held(Count(0, 1), Count(1, 2), Count(3, 4))
    return SequenceReport(
        method="rome",
        config={"layer": 1},
        requests=(TOWER, BRIDGE, TOWER),
        immediate=(good, good, None),
        final=(bad, good, None),
        points=(Point(0, summed([bad]), 5.0), Point(3, summed([bad, good]), 7.5)),
        failed=((2, "a reason"),),
    )


def test_retention_counts_edits_that_worked_at_first() -> None:
    found = report()
    assert found.retention == 0.5
    assert found.share("immediate", "reliability") == 1.0
    assert found.share("final", "reliability") == 0.5
    assert found.share("final", "locality") == 0.75
    summary = json.loads(found.to_json())["summary"]
    assert summary["retention"] == 0.5
    assert (summary["perplexity_before"], summary["perplexity_after"], summary["n_failed"]) == (5.0, 7.5, 1)
    frame = found.to_frame()
    assert frame["n_edits"].tolist() == [0, 3]
    assert frame["reliability"].tolist() == [0.0, 0.5]


def test_perplexity_of_texts_is_that_of_their_tokens() -> None:
    text = "Tower is in Paris"
    certain = KnownModel(WORDS, {"Tower": {"is": 0.5}, "Tower is": {"in": 0.5}, "Tower is in": {"Paris": 0.5}})
    assert text_perplexity(certain, [text, text]) == pytest.approx(2.0)  # type: ignore[arg-type]
    assert text_perplexity(certain, []) is None  # type: ignore[arg-type]
    assert text_perplexity(certain, [text], 2) == pytest.approx(2.0)  # type: ignore[arg-type]
