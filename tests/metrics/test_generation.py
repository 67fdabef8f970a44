"""When a free-running continuation counts as an answer, and where it is cut for display."""

from __future__ import annotations

import pytest

from metrics.asking.generation import first_sentence, matches, normalise


@pytest.mark.parametrize(
    ("continuation", "answer"),
    [
        (" Rome", "Rome"),
        (" Rome. It has seven hills.", "Rome"),
        (" ROME, Italy", "Rome"),
        ("\n Rome's centre", "Rome"),
        (" the Netherlands.", "Netherlands"),
        (" The Hague", "the Hague"),
        (' the "Eternal City"', "Eternal City"),
        (" Washington, D.C. It is", "Washington, D.C."),
        (" Washington, D.C.", "Washington, D.C"),
        (" St. Louis. The", "St. Louis"),
        (" Cote  d\u2019Ivoire", "Cote d'Ivoire"),
        (" \u7f57\u9a6c\u7684\u4e2d\u5fc3", "\u7f57\u9a6c"),
        (" 1889", "1889"),
        (" Baden-W\u00fcrttemberg", "Baden-W\u00fcrttemberg"),
        (" Baden - a town", "Baden"),
    ],
)
def test_answers_at_a_word_boundary_match(continuation: str, answer: str) -> None:
    assert matches(continuation, [answer])


@pytest.mark.parametrize(
    ("continuation", "answer"),
    [
        ("", "Rome"),
        (" not Rome", "Rome"),
        (" Romania", "Roman"),
        (" Nigeria", "Niger"),
        (" Guinea-Bissau", "Guinea"),
        (" D'Artagnan", "D"),
        (" Washington", "Washington, D.C."),
        (" 18890", "1889"),
        (" Sa\u0303o", "Sa"),
        (" Rome", ""),
        (" Rome", " . "),
    ],
)
def test_everything_else_does_not(continuation: str, answer: str) -> None:
    assert not matches(continuation, [answer])


def test_any_accepted_name_matches() -> None:
    assert matches(" the USA.", ["United States", "USA"])


def test_a_longer_wrong_answer_wins_over_a_shorter_right_one() -> None:
    assert matches(" Mexico City", ["Mexico"])
    assert not matches(" Mexico City", ["Mexico"], rivals=["Mexico City"])
    assert matches(" Mexico City", ["Mexico City"], rivals=["Mexico"])
    assert matches(" Mexico.", ["Mexico"], rivals=["Mexico City"])


def test_normalise_is_stable() -> None:
    for text in (' "The  Hague"', "an apple", "A", "the", "\ufb01ne"):
        assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("continuation", "shown"),
    [
        (" Rome. It has", " Rome."),
        (" Washington, D.C. in the", " Washington, D.C. in the"),
        (" St. Louis. The", " St. Louis."),
        (" version 3.11 is out! Yes", " version 3.11 is out!"),
        (' he said "no." Then', ' he said "no."'),
        ("\nRome\nParis", "\nRome"),
        (" \u7f57\u9a6c\u3002\u5b83", " \u7f57\u9a6c\u3002"),
        (" no end in sight ", " no end in sight"),
        ("", ""),
    ],
)
def test_the_shown_text_stops_where_the_sentence_does(continuation: str, shown: str) -> None:
    assert first_sentence(continuation) == shown
