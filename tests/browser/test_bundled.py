"""The main job on the bundled model, as a user finds the page: trace, pick a layer, edit, read five metrics, undo."""

from collections.abc import Callable

import numpy as np
from playwright.sync_api import Page, expect

from metrics.definitions import METRICS as TABLE
from tests.browser.actions import (
    LAYERS,
    MAP,
    PATIENCE,
    apply_edit,
    at,
    button,
    expect_layer,
    fill,
    grid,
    report,
    slider,
    tile,
    trace,
    traced,
    undo,
)
from tests.browser.servers import Server

NewPage = Callable[..., Page]
METRICS = tuple(metric.label for metric in TABLE.values())


def test_trace_click_edit_read_and_undo(bundled_page: NewPage, bundled_server: Server) -> None:
    page = bundled_page()
    expect(page.get_by_text("it knows this")).to_be_visible(timeout=PATIENCE)
    trace(page)
    effect = np.array(grid(page))
    assert effect.shape[1] == LAYERS
    # The answer is carried by the last subject token in early layers, and by the last token in late ones.
    last_subject = page.locator(".tokens span.subject").count()
    assert effect.max() == effect[last_subject, : LAYERS // 2].max()
    weights = bundled_server.ask("weights")
    page.mouse.click(*at(page, 3, last_subject))
    expect_layer(page, 3)
    page.set_viewport_size({"width": 1440, "height": 900})
    apply_edit(page)
    for name in METRICS:
        expect(tile(page, name)).to_contain_text("n = ")
    # what Engram is, the model, the prompt, the map, the edit and the five metrics stand on the first screen
    seen = [page.get_by_role("heading", level=1), page.locator(MAP), slider(page), button(page, "Apply edit")]
    seen += [page.get_by_role("combobox", name="Model"), page.get_by_role("textbox", name="Prompt")]
    seen += [page.locator(".said"), *(tile(page, name) for name in METRICS)]
    assert page.locator("[data-testid=stMain]").evaluate("node => node.scrollTop") == 0
    for element in seen:
        box = element.bounding_box()
        assert box is not None
        assert box["y"] >= 0, element
        assert box["y"] + box["height"] <= 900, element
    expect(page.locator(".st-key-edited_view")).to_contain_text("Edited view.")
    scores = {score["metric"]: score for score in report(page)["scores"] if score["headline"]}
    assert (scores["reliability"]["before"], scores["reliability"]["after"]) == (0.0, 1.0)
    page.get_by_role("tab", name="Text before and after").click()
    expect(page.get_by_text("Before", exact=True).first).to_be_visible()
    undo(page).click()
    expect(page.locator(".st-key-edited_view")).to_have_count(0)
    expect(page.locator(".st-key-tiles").get_by_text("—")).to_have_count(5)
    assert bundled_server.ask("weights") == weights


def test_a_long_trace_shows_its_first_noise_sample_meanwhile(bundled_page: NewPage) -> None:
    words = "The Space Needle, which many people come to see in the summer of every year, is located in the city of"
    page = bundled_page(samples="20", prompt=words, subject="Space Needle", answer="Oslo", site="state")
    doubt, first = page.get_by_text("it explains a guess"), page.get_by_text("The first of 20 noise samples")
    expect(doubt).to_be_visible(timeout=PATIENCE)
    fill(page, "True answer", "")
    button(page, "Run trace").click()
    expect(first).to_be_visible(timeout=PATIENCE)
    expect(page.locator(MAP)).to_be_visible(timeout=PATIENCE)
    page.wait_for_function("() => document.querySelector('[data-stale=false] .all-drawn')")
    assert not doubt.is_visible()  # it was of the other answer
    expect(first).to_be_visible()
    traced(page)
    expect(first).to_have_count(0)
