"""Facts and requests refuse what cannot be asked, in one sentence that says what to do."""

import pytest

from facts.types import EditRequest, Fact, Probe


def test_prompt_fills_the_template() -> None:
    assert Fact("Space Needle", "The {} is in", "Seattle").prompt == "The Space Needle is in"


def test_a_subject_with_braces_is_filled_in_as_it_is() -> None:
    assert Fact("the {x} set", "All of {} is", "dense").prompt == "All of the {x} set is"


def test_from_prompt_takes_the_first_occurrence() -> None:
    fact = Fact.from_prompt("Paris is where Paris Hilton was born", "Paris")
    assert fact.template == "{} is where Paris Hilton was born"


@pytest.mark.parametrize(
    ("prompt", "subject", "message"),
    [
        ("", "Paris", "the prompt is empty"),
        ("  ", "Paris", "the prompt is empty"),
        ("Rome is in", "", "the subject is empty"),
        ("Rome is in", "Paris", "'Paris' does not occur in the prompt 'Rome is in'"),
        ("{} is in", "Rome", "contains {}"),
    ],
)
def test_from_prompt_names_what_is_wrong(prompt: str, subject: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fact.from_prompt(prompt, subject)


@pytest.mark.parametrize("template", ["no place", "{} and {}"])
def test_templates_hold_one_placeholder(template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Fact("a", template, "b")


@pytest.mark.parametrize("target", ["", " ", "Seattle", " Seattle "])
def test_the_new_answer_must_be_new(target: str) -> None:
    with pytest.raises(ValueError, match="new answer"):
        EditRequest(Fact("Space Needle", "{} is in", "Seattle"), target)


def test_broken_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="broken character"):
        Fact("a\ud800", "{} is", "b")


def test_probes_are_found_by_kind() -> None:
    probes = (Probe("paraphrase", "p", "a"), Probe("alias", "q", "a"), Probe("paraphrase", "r", "a"))
    request = EditRequest(Fact("x", "{} is", "b"), "a", probes)
    assert [probe.prompt for probe in request.of_kind("paraphrase")] == ["p", "r"]
    assert request.of_kind("inverse") == ()


def test_a_zero_character_is_refused() -> None:
    with pytest.raises(ValueError, match=r"subject contains a zero character \(U\+0000\); type it again without it"):
        Fact("Space\0Needle", "{} is in", "Seattle")
