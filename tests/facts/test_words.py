"""Where a subject stands, and whether a blank goes before an answer."""

from __future__ import annotations

import pytest

from facts import Fact
from facts.importers import read_cases
from facts.words import blank_before, find_subject, occurrences, without_trailing_blank


@pytest.mark.parametrize(
    ("prompt", "subject", "places"),
    [
        ("The Iranian capital of Iran is", "Iran", (23,)),  # not inside "Iranian"
        ("Iran's capital, Iran-wide, is", "Iran", (0, 16)),
        ("Apollo 11 flew before Apollo 1", "Apollo 1", (22,)),
        ("Iranians speak", "Iran", (0,)),  # nowhere else: the place inside a word counts
        ("日本東京と東京", "東京", (2, 5)),  # no blanks in this script, so no word is cut
        ("Emile and É\u0301mile", "mile", (1, 12)),
        ("le café\u0301 et le caf", "caf", (15,)),  # an accent of its own belongs to the word
        ("aaaa", "aa", (0, 2)),
        ("Rome", "Paris", ()),
        ("Rome", "", ()),
    ],
)
def test_places_of_a_subject(prompt: str, subject: str, places: tuple[int, ...]) -> None:
    assert occurrences(prompt, subject) == places


def test_a_fact_takes_the_subject_as_a_word_of_its_own() -> None:
    fact = Fact.from_prompt("The Iranian capital of Iran is", "Iran")
    assert fact.template == "The Iranian capital of {} is"
    assert fact.start == 23


def test_a_fact_takes_the_occurrence_asked_for() -> None:
    prompt = "Paris is where Paris Hilton was born"
    assert Fact.from_prompt(prompt, "Paris", occurrence=1).template == "Paris is where {} Hilton was born"
    with pytest.raises(ValueError, match=r"occurrence 2 of the subject 'Paris' .* holds 2, counted from 0"):
        Fact.from_prompt(prompt, "Paris", occurrence=2)


def test_an_imported_subject_in_other_capitals_is_a_word_of_its_own(tmp_path) -> None:
    assert find_subject("The Iranian capital of IRAN is", "iran") == "IRAN"
    file = tmp_path / "facts.csv"
    file.write_text("prompt,subject,answer\nThe Iranian capital of IRAN is,iran,Tehran\n", encoding="utf-8")
    (case,) = read_cases(file)
    assert case.known[0].template == "The Iranian capital of {} is"


@pytest.mark.parametrize(
    "text",
    [
        'The capital of France is "',
        "The capital of France is (",
        "The capital of France is “",
        "The capital of France is «",
        "The capital of France is **",
        "The capital is '",
        "It costs $",
        "Answer:\n",
        "assistant\n",
        "中国的首都是",
        "中国的首都是：",
        "เมืองหลวงของไทยคือ",
        '"',
    ],
)
def test_no_blank_where_the_language_has_none(text: str) -> None:
    assert blank_before(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is",
        "The capital of France is:",
        'The "City of Light"',  # the quote closes
        "They call it *Paris*",
        "the dogs'",
        "The capital (of France)",
        "서울은 어디에 있나요?",  # Korean writes blanks between words
        "Столица Франции",
        "عاصمة فرنسا هي",
    ],
)
def test_a_blank_between_words(text: str) -> None:
    assert blank_before(text) == " "


def test_only_blanks_at_the_end_are_left_out() -> None:
    assert without_trailing_blank("in the city of \t\u00a0") == "in the city of"
    assert without_trailing_blank("Answer:\n") == "Answer:\n"
