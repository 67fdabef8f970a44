"""What axe-core finds on the pages: contrast, names of controls, roles, order of headings."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.actions import PATIENCE, apply_edit, button, settled, traced

NewPage = Callable[..., Page]
SERIOUS = ("serious", "critical")
AT_REST = """() => document.getAnimations().every(
    one => one.playState !== 'running' || one.effect.getComputedTiming().iterations === Infinity)"""
"""What has just been drawn fades in, and is pale until then."""


def serious(page: Page) -> list[str]:
    """Every serious finding on the finished page as "rule: element"."""
    settled(page)
    page.wait_for_function(AT_REST)
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    elements = [(rule["id"], node["html"]) for rule in found if rule["impact"] in SERIOUS for node in rule["nodes"]]
    return [f"{rule}: {element[:200]}" for rule, element in elements]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_serious_stands_in_a_readers_way(new_page: NewPage, dark: bool) -> None:  # check 24
    page = new_page(dark=dark)
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    assert serious(page) == []
    button(page, "Run trace").click()
    traced(page)
    apply_edit(page)
    for name in ("Table", "Text before and after", "Probes", "As code"):
        page.get_by_role("tab", name=name).click()
        assert serious(page) == []
    button(page, "Details").click()
    expect(page.get_by_text("Loss over")).to_be_visible()
    assert serious(page) == []


def test_methods_page_defines_the_scores(new_page: NewPage) -> None:
    page = new_page()
    page.get_by_role("link", name="Methods").click()
    expect(page.get_by_text("What did the edit cost?")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    assert serious(page) == []
