"""Every lesson opens in the Workbench with its settings, and three of them show there what they say."""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl

import numpy as np
from playwright.sync_api import Page, expect

from app.lessons.cases import LESSONS
from tests.browser.actions import (
    PATIENCE,
    apply_edit,
    choose_layer,
    grid,
    parameters,
    settled,
    slider,
    tile,
    token_labels,
    traced,
)
from tests.browser.servers import Server

NewPage = Callable[..., Page]
FIELDS = {"prompt": "Prompt", "subject": "Subject", "answer": "True answer", "new": "New answer"}


def opened(workbench: Page, name: str) -> Page:
    """The Workbench with a lesson, as its button opens it."""
    lesson = workbench.locator(f".st-key-lesson_{name}")
    with workbench.context.expect_page() as waiting:
        lesson.get_by_role("link", name="Open in the Workbench").click()
    return waiting.value


def to_lessons(page: Page) -> None:
    settled(page)
    page.get_by_role("link", name="Lessons").click()
    expect(page.get_by_role("link", name="Open in the Workbench")).to_have_count(len(LESSONS), timeout=PATIENCE)


def test_every_lesson_opens_with_its_settings(bundled_page: NewPage, bundled_server: Server) -> None:
    page = bundled_page()
    to_lessons(page)
    with bundled_server.held():  # what the traces show is another test's
        for lesson in LESSONS:
            workbench = opened(page, lesson.name)
            given = dict(parse_qsl(lesson.query))
            for name, label in FIELDS.items():
                if name in given:
                    expect(workbench.get_by_role("textbox", name=label)).to_have_value(given[name], timeout=PATIENCE)
            site = {"all": "All", "state": "State"}.get(given.get("site", ""), "MLP")
            expect(workbench.get_by_role("radio", name=site)).to_be_checked()
            expect(slider(workbench)).to_have_value(given.get("layer", re.compile(r"\d+")))
            shown = parameters(workbench)
            if lesson.name != "chinese":  # its model is to be fetched first, and the server of the tests has none
                assert shown.get("model", "reference") == given.get("model", "reference")
            assert float(shown.get("noise", 3)) == float(given.get("noise", 3))
            workbench.close()


def test_the_glass_box_shows_the_cell_that_was_set_by_hand(bundled_page: NewPage) -> None:  # check 6
    page = bundled_page()
    to_lessons(page)
    workbench = opened(page, "known")
    traced(workbench)
    tokens = token_labels(workbench)
    states, mlp, attention = (np.array(grid(workbench, index)) for index in range(3))
    assert states.shape == mlp.shape == attention.shape
    needle = tokens.index("␣Needle*")
    lesson = next(lesson for lesson in LESSONS if lesson.name == "known")
    assert np.unravel_index(mlp.argmax(), mlp.shape) == (needle, 2)
    assert abs(mlp.max() - lesson.numbers["largest"]) < 0.0051
    assert np.unravel_index(attention.argmax(), attention.shape) == (len(tokens) - 1, 4)
    for effects in (mlp, attention):  # one cell stands out, the others hold next to nothing
        assert np.sort(effects.ravel())[-2] < 0.05


def test_a_wrong_layer_and_then_the_right_one(bundled_page: NewPage) -> None:
    page = bundled_page()
    to_lessons(page)
    workbench = opened(page, "layer")
    traced(workbench)
    expect(slider(workbench)).to_have_value("8")
    apply_edit(workbench)
    expect(tile(workbench, "Reliability").get_by_text("0 %", exact=True)).to_be_visible()
    choose_layer(workbench, 2)
    workbench.locator(".st-key-undo").get_by_role("button").click()
    expect(workbench.locator(".st-key-edited_view")).to_have_count(0, timeout=PATIENCE)
    apply_edit(workbench)
    expect(tile(workbench, "Reliability").get_by_text("100 %", exact=True)).to_be_visible(timeout=PATIENCE)


def test_too_little_noise_is_said(bundled_page: NewPage) -> None:
    page = bundled_page()
    to_lessons(page)
    workbench = opened(page, "noise")
    traced(workbench)
    expect(workbench.get_by_text("The noise hardly changes the answer")).to_be_visible()
    expect(workbench.get_by_text("total effect")).to_be_visible()
