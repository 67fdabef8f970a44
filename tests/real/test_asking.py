"""One way to ask, on a model people use: joins, blanks, whole words, the chat template."""

from __future__ import annotations

import pytest

from app.first_look import look
from models import LanguageModel, join, subject_span

CHAT_QUESTION = "What is the capital of France? Answer with one word."


def test_no_blank_behind_an_opening_quote(smollm2: LanguageModel) -> None:
    """With a blank the answer's probability is .0011."""
    found = look(smollm2, 'The capital of France is "', "France", "Paris")
    assert found.rank == 1
    assert found.p_answer == pytest.approx(0.61, abs=0.005)


def test_no_blank_inside_chinese(smollm2: LanguageModel) -> None:
    """Of the whole answer, four tokens; with a blank it is .000003."""
    assert look(smollm2, "中国的首都是", "中国", "北京").p_answer == pytest.approx(0.00031, abs=0.00002)


def test_a_blank_at_the_end_changes_nothing(smollm2: LanguageModel) -> None:
    """Kept, the blank takes the probability from .70 to .005."""
    prompt = "The Eiffel Tower is located in the city of"
    found = look(smollm2, f"{prompt} ", "Eiffel Tower", "Paris")
    assert found.p_answer == look(smollm2, prompt, "Eiffel Tower", "Paris").p_answer == pytest.approx(0.70, abs=0.005)
    assert any("blank" in note for note in found.notes)


def test_the_subject_is_a_word_of_its_own(smollm2: LanguageModel) -> None:
    prompt = "The Iranian capital of Iran is"
    span = subject_span(smollm2, prompt, "Iran")
    assert smollm2.token_strings(smollm2.encode(prompt))[span.start : span.stop] == [" Iran"]


def test_an_instruct_model_is_named_and_asked_in_its_template(smollm2: LanguageModel) -> None:
    plain = look(smollm2, CHAT_QUESTION, "France", "Paris")
    assert any("instruct model" in note for note in plain.notes)
    chat = smollm2.as_chat()
    asked = chat.decode(chat.encode(CHAT_QUESTION), special_tokens=True)
    assert asked.endswith(f"<|im_start|>user\n{CHAT_QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    ids, n_prompt = join(chat, CHAT_QUESTION, "Paris")
    assert chat.decode(ids[n_prompt:]) == "Paris"
    found = look(chat, CHAT_QUESTION, "France", "Paris")
    assert found.notes == ()
    assert found.rank < plain.rank
    assert chat.generate(["What is the capital of France?"], 12)[0].startswith("The capital of France is Paris")


def test_characters_cut_into_tokens_are_shown_once(smollm2: LanguageModel) -> None:
    for text in ("中国的首都是北京", "🗼🦅 is in", "عاصمة فرنسا هي باريس"):
        shown = smollm2.token_strings(smollm2.encode(text))
        assert "\ufffd" not in "".join(shown)
        assert "".join(token for token in shown if token != "⋯") == text
