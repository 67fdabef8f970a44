"""Every lesson opens in the Workbench with its settings, and three of them show there what they say."""

from collections.abc import Callable
from urllib.parse import parse_qsl

import numpy as np
from playwright.sync_api import Page, expect

from app.lessons.cases import LESSONS
from models.sources.catalogue import is_fetched
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


def test_every_lesson_opens_with_its_settings(bundled_page: NewPage) -> None:
    page = bundled_page()
    to_lessons(page)
    for lesson in LESSONS:
        workbench = opened(page, lesson.name)
        given = dict(parse_qsl(lesson.query))
        for name, label in FIELDS.items():
            if name in given:
                expect(workbench.get_by_role("textbox", name=label)).to_have_value(given[name], timeout=PATIENCE)
        if not is_fetched(given.get("model", "reference")):
            # the lesson says that its model is to be fetched first
            expect(workbench.get_by_text("The link’s value for model could not be used")).to_be_visible()
        else:
            traced(workbench)
            expected = {"model": "reference", "site": "mlp", "noise": "3.0"} | given
            shown = parameters(workbench)
            assert {name: shown.get(name) for name in ("model", "site", "noise")} == {
                name: expected[name] for name in ("model", "site", "noise")
            }
            if "layer" in given:
                expect(slider(workbench)).to_have_value(given["layer"])
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
