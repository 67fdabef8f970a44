"""Checks 1 to 5, 22 and 24 in Chinese: nothing but names stays English, and Chinese prompts are readable."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from app.session.examples import DEFAULT
from tests.browser.actions import LAYERS, MAP, PATIENCE, button, download, grid, parameters, settled, token_labels

NewPage = Callable[..., Page]
ENGLISH_WORDS = re.compile(r"\b(the|of|is|are|and|with|run|trace|layer|token|edit|model)\b", re.IGNORECASE)
NAMES = re.compile(
    r"The Space Needle is located in the city of|Space Needle|R-ROME|SmolLM2|Engram|Run|Hase et al|Ctrl \+ Enter"
)
"""English that stays: the example, names of methods and models."""
WORDS = """() => { const main = document.querySelector('[data-testid=stMain]').cloneNode(true);
    main.querySelectorAll('.tokens, .ytick, [data-testid=stIconMaterial], style').forEach(node => node.remove());
    return main.textContent }"""
"""What the page says, without the tokens of the prompt (also beside the map) and the names of icons."""
DRAWN = f"() => document.querySelector('{MAP}')?._fullData !== undefined"


def traced(page: Page) -> None:
    expect(button(page, "运行追踪")).to_be_enabled(timeout=PATIENCE)
    button(page, "运行追踪").click()
    expect(page.locator(MAP).first).to_be_visible(timeout=PATIENCE)
    expect(button(page, "应用编辑")).to_be_enabled(timeout=PATIENCE)
    settled(page)


def test_first_page(new_page: NewPage) -> None:  # checks 1, 2 and 3
    page = new_page("提示", lang="zh")
    expect(page.get_by_role("textbox", name="提示")).to_have_value(DEFAULT.prompt)
    expect(button(page, "运行追踪")).to_be_enabled()
    expect(button(page, "导出")).to_be_disabled()
    expect(button(page, "应用编辑")).to_be_disabled()
    expect(page.get_by_text("然后每次恢复一个状态")).to_be_visible()
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    left = NAMES.sub("", page.evaluate(WORDS))
    assert ENGLISH_WORDS.findall(left) == [], left


def test_trace_and_export(new_page: NewPage, tmp_path: Path) -> None:  # checks 4, 5 and 22
    page = new_page("提示", lang="zh")
    page.get_by_role("textbox", name="提示").focus()
    traced(page)
    drawn, labels = grid(page), token_labels(page)
    assert [len(row) for row in drawn] == [LAYERS] * len(labels)
    assert [label.removesuffix("*") for label in labels] == [
        chip.removesuffix("*") for chip in page.locator(".tokens span").all_inner_texts()
    ]
    assert sum(label.endswith("*") for label in labels) >= 1
    button(page, "导出").click()
    pdf = download(page, lambda: page.get_by_role("button", name="图（PDF）", exact=True).click())
    assert pdf.startswith(b"%PDF")


def test_switching_keeps_the_values_and_the_map(new_page: NewPage) -> None:  # check 24
    page = new_page(seed="7", site="state", samples="2")
    expect(button(page, "Run trace")).to_be_enabled(timeout=PATIENCE)
    settled(page)
    button(page, "Run trace").click()
    expect(page.locator(MAP).first).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.wait_for_function(DRAWN, timeout=PATIENCE)
    before = grid(page)
    page.get_by_role("radio", name="中文").click()
    expect(button(page, "应用编辑")).to_be_enabled(timeout=PATIENCE)
    settled(page)
    page.wait_for_function(DRAWN, timeout=PATIENCE)
    assert grid(page) == before
    expect(page.get_by_role("radio", name="状态").first).to_be_checked()
    kept = parameters(page)
    assert (kept["lang"], kept["seed"], kept["site"], kept["samples"]) == ("zh", "7", "state", "2")


def test_chinese_prompts_are_readable(new_page: NewPage) -> None:
    page = new_page("提示", lang="zh", prompt="法国的首都是", subject="法国", answer="巴黎", new="罗马")
    expect(page.get_by_role("textbox", name="主语")).to_have_value("法国")
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    assert page.locator("[data-testid=stException]").count() == 0
