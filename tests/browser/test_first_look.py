"""The page before anything is run: what stands there, what the fields refuse, what a link restores."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Page, expect

from app.server.catalog import choices
from app.session.examples import DEFAULT
from tests.browser.actions import MAP, PATIENCE, button, fill, parameters, settled, slider, traced

NewPage = Callable[..., Page]
CUT = """() => [...document.querySelectorAll('[data-testid=stApp] *')].filter(node => {
    const words = node.tagName === 'INPUT' ? node.value || node.placeholder
        : [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    const visible = {opacityProperty: true, visibilityProperty: true};
    return words && node.clientWidth > 1 && node.checkVisibility(visible) && node.scrollWidth > node.clientWidth + 1
        && (node.tagName === 'INPUT' || ['hidden', 'clip'].includes(getComputedStyle(node).overflowX));
}).map(node => node.value || node.placeholder || node.textContent)"""
"""Texts that do not fit into their box, which hides the rest."""


def test_first_page(new_page: NewPage) -> None:  # checks 1 and 3
    page = new_page()
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value(DEFAULT.prompt)
    expect(button(page, "Run trace")).to_be_enabled()
    expect(button(page, "Export")).to_be_disabled()
    expect(button(page, "Apply edit")).to_be_disabled()
    expect(page.get_by_text("then one state at a time is restored")).to_be_visible()
    expect(page.get_by_text("Run a trace first; it may suggest another")).to_be_visible()
    expect(page.locator(".st-key-tiles").get_by_text("—")).to_have_count(5)


def test_tokens_are_the_tokenizers_own(new_page: NewPage, tiny_folder: Path) -> None:  # check 5
    from transformers import AutoTokenizer

    page = new_page()
    chips = page.locator(".tokens span")
    expect(chips.first).to_be_visible(timeout=PATIENCE)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    encoded = tokenizer(DEFAULT.prompt, return_offsets_mapping=True)
    start = DEFAULT.prompt.index(DEFAULT.subject)
    stop = start + len(DEFAULT.subject)
    expected = [
        DEFAULT.prompt[low:high].replace(" ", "␣") + ("*" if low < stop and high > start + 1 else "")
        for low, high in encoded["offset_mapping"]
    ]
    assert chips.all_inner_texts() == expected


def test_subject_not_in_the_prompt(new_page: NewPage) -> None:  # check 18
    page = new_page()
    fill(page, "Subject", "Eiffel Tower")
    expect(page.get_by_text("not in the prompt")).to_be_visible()
    button(page, "Run trace").click()
    expect(page.get_by_text("First correct the field named above")).to_be_visible()
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    page.get_by_role("textbox", name="Subject").fill(DEFAULT.subject)
    button(page, "Run trace").click()  # the same click ends the correction
    expect(page.locator(MAP)).to_be_visible(timeout=PATIENCE)


def test_another_model_begins_at_a_layer_of_its_own(new_page: NewPage) -> None:
    page = new_page(layer="5")
    expect(page.locator(".read.now")).to_be_visible(timeout=PATIENCE)
    expect(slider(page)).to_have_value("5")
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option").filter(has_text="Glass box").click()
    expect(slider(page)).to_have_value(str(choices()["glass-box"].usual.layer), timeout=PATIENCE)


def test_a_link_restores_every_field(new_page: NewPage) -> None:  # check 20
    sent = {
        "prompt": "法国的首都是",
        "subject": "法国",
        "answer": "巴黎",
        "new": "罗马",
        "site": "attn",
        "noise": "2.5",
        "samples": "4",
        "window": "4",
        "seed": "7",
        "layer": "5",
    }
    page = new_page(**sent)
    for name, label in (("prompt", "Prompt"), ("subject", "Subject"), ("answer", "True answer"), ("new", "New answer")):
        expect(page.get_by_role("textbox", name=label)).to_have_value(sent[name])
    expect(page.get_by_role("radio", name="Attention")).to_be_checked()
    expect(slider(page)).to_have_value("5")
    button(page, "Settings").click()
    for label, name in (
        ("Noise (× σ)", "noise"),
        ("Noise samples", "samples"),
        ("Window (layers)", "window"),
        ("Seed", "seed"),
    ):
        expect(page.get_by_role("spinbutton", name=label)).to_have_value(re.compile(rf"^{re.escape(sent[name])}0?$"))
    assert parameters(page) | sent == parameters(page)
    expect(page.get_by_text("could not be used")).to_have_count(0)


def test_one_click_copies_the_link(new_page: NewPage) -> None:
    page = new_page(run="1", seed="7", subject="Space Needle", new="London")
    traced(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expected = {name: value for name, value in parameters(page).items() if name != "tab"}
    assert "tab" in parameters(page)
    assert (expected["seed"], expected["new"], expected["run"]) == ("7", "London", "1")
    # Over http, as in a class, browsers have no `navigator.clipboard`.
    without = "() => Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})"
    for before in ("() => {}", without):
        page.evaluate("() => navigator.clipboard.writeText('')")
        page.evaluate(before)
        page.locator(".st-key-copy_link").get_by_role("button").click()
        expect(button(page, "Link copied")).to_be_visible()
        page.evaluate("() => { delete navigator.clipboard }")
        copied = urlsplit(page.evaluate("() => navigator.clipboard.readText()"))
        assert dict(parse_qsl(copied.query)) == expected
        assert f"{copied.scheme}://{copied.netloc}/" in page.url


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [1440, 390])
def test_no_words_are_cut(new_page: NewPage, language: str, width: int) -> None:
    page = new_page("提示" if language == "zh" else "Prompt", width=width, lang=language, run="1", layer="4")
    expect(page.locator(MAP).first).to_be_visible(timeout=PATIENCE)
    page.locator(".st-key-apply_edit").get_by_role("button").click()
    expect(page.locator(".st-key-edited_view")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize("text", ["![x](http://127.0.0.2/a.png)", "<img src=http://127.0.0.2/b.png>"])
def test_text_of_a_link_is_shown_as_text(new_page: NewPage, text: str) -> None:  # check 21
    page = new_page(prompt=f"The {text} stands in", subject=text, new=text)
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("textbox", name="Subject")).to_have_value(text)
    assert page.locator(".stMain img[src*='127.0.0.2']").count() == 0
    fill(page, "Subject", text + "!")
    expect(page.get_by_text("not in the prompt")).to_be_visible()
    assert (
        page.locator("img[src*='127.0.0.2']").count() == 0
    )  # the page's teardown also checks that nothing was fetched


def test_narrow_screens_do_not_scroll_sideways(new_page: NewPage) -> None:  # check 25
    page = new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(button(page, "Run trace")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
