"""The switch of an instruct model, and the choice of a repeated subject, on the page and in the link."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.tiny import CHATML

PROMPT = "Rome is the capital of Italy. Rome is in"


def strip_of(page: AppTest) -> str:
    return next(element.body for element in page.get("html") if "Tokens of the prompt" in element.body)


def settled(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


@pytest.fixture
def chat_page(
    new_page: Callable[..., AppTest], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AppTest]:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    monkeypatch.setenv("ENGRAM_MODELS", f"reference={folder}")
    return new_page


def test_a_plain_model_has_no_switch(new_page: Callable[..., AppTest]) -> None:
    page = settled(new_page())
    assert not [toggle for toggle in page.toggle if toggle.key == "ask_in_chat"]


def test_an_instruct_model_is_named_and_asked_in_its_template(chat_page: Callable[..., AppTest]) -> None:
    page = settled(chat_page())
    assert "is an instruct model" in strip_of(page)
    assert "chat template:" not in strip_of(page)
    page.toggle(key="ask_in_chat").set_value(True)
    settled(settled(page))
    assert "chat template" in strip_of(page)
    assert "is an instruct model" not in strip_of(page)
    assert page.query_params["chat"] == "1"
    page.toggle(key="ask_in_chat").set_value(False)
    settled(settled(page))
    assert "chat template:" not in strip_of(page)


def test_a_link_asks_in_the_template(chat_page: Callable[..., AppTest]) -> None:
    page = settled(chat_page(chat="1"))
    assert "chat template" in strip_of(page)
    assert page.toggle(key="ask_in_chat").value is True


def test_a_link_cannot_ask_a_plain_model_in_a_template(new_page: Callable[..., AppTest]) -> None:
    page = settled(settled(new_page(chat="1")))
    assert "Tokens of the prompt" in strip_of(page)
    assert page.session_state.chat == 0


def test_a_repeated_subject_is_chosen(new_page: Callable[..., AppTest]) -> None:
    page = settled(new_page(prompt=PROMPT, subject="Rome"))
    first = strip_of(page)
    page.selectbox(key="occurrence").select(1)
    settled(settled(page))
    second = strip_of(page)
    assert first.index('class="subject"') < second.index('class="subject"')
    assert page.query_params["occurrence"] == "1"
    again = settled(new_page(prompt=PROMPT, subject="Rome", occurrence="1"))
    assert strip_of(again) == second


def test_a_subject_inside_another_word_is_not_chosen(new_page: Callable[..., AppTest]) -> None:
    page = settled(new_page(prompt="The Romeo of Rome is", subject="Rome"))
    assert not [box for box in page.selectbox if box.key == "occurrence"]
