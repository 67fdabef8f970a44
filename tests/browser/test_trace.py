"""Tracing on the page: the map, its keyboard twins, cancelling, exporting."""

import io
import json
import random
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from pypdf import PdfReader

from tests.browser.actions import (
    LAYERS,
    MAP,
    PATIENCE,
    at,
    button,
    expect_layer,
    exported,
    exported_csv,
    fill,
    grid,
    outlined_layer,
    parameters,
    settled,
    slider,
    token_labels,
    trace,
    traced,
)
from tests.browser.servers import Server

NewPage = Callable[..., Page]


def test_run_by_mouse_gives_a_cell_for_every_token_and_layer(new_page: NewPage) -> None:  # checks 4 and 5
    page = new_page(seed="1")
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    chips = page.locator(".tokens span").all_inner_texts()
    trace(page)
    assert np.array(grid(page)).shape == (len(chips), LAYERS)
    assert token_labels(page) == chips
    assert parameters(page)["run"] == "1"


def test_run_by_keyboard(new_page: NewPage) -> None:  # check 4
    page = new_page(seed="2")
    expect(button(page, "Run trace")).to_be_enabled()
    page.get_by_role("textbox", name="Prompt").press("ControlOrMeta+Enter")
    traced(page)
    assert np.array(grid(page)).shape[1] == LAYERS


def test_a_click_picks_the_layer_it_lands_on(shared_page: Page) -> None:  # check 7
    page = shared_page
    chance = random.Random(0)
    rows = len(token_labels(page))
    for _ in range(20):
        layer, token = chance.randrange(LAYERS), chance.randrange(rows)
        # Anywhere in the cell, edges left out.
        x, y = at(page, layer + chance.uniform(-0.42, 0.42), token + chance.uniform(-0.38, 0.38))
        page.mouse.click(x, y)
        page.wait_for_timeout(150)  # the layer may be the same as before: nothing to see, and nobody clicks faster
        expect_layer(page, layer)


def test_a_click_on_a_token_of_the_subject_chooses_where_to_edit(shared_page: Page) -> None:
    page, names = shared_page, token_labels(shared_page)
    subject = [index for index, name in enumerate(names) if name.endswith("*")]
    chosen, first = page.get_by_role("combobox", name="Edit at token"), names[subject[0]].removesuffix("*")
    page.mouse.click(*at(page, 2, subject[0]))
    expect_layer(page, 2)
    expect(chosen).to_have_value(first)
    page.mouse.click(*at(page, 1, len(names) - 1))  # no token of the subject: only the layer changes
    expect_layer(page, 1)
    expect(chosen).to_have_value(first)
    page.mouse.click(*at(page, 2, subject[-1]))
    expect_layer(page, 2)
    expect(chosen).to_have_value(f"{names[subject[-1]].removesuffix('*')} (last of the subject)")


def test_slider_outline_and_link_move_together(shared_page: Page) -> None:  # checks 8 and 9
    page = shared_page
    late, early = LAYERS - 2, 1
    page.mouse.click(*at(page, late, 3))
    expect_layer(page, late)
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    expect_layer(page, late + 1)
    page.mouse.click(*at(page, early, 2))
    expect_layer(page, early)
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    expect_layer(page, early + 1)
    page.mouse.click(*at(page, early, 2))  # the cell that was clicked last: Plotly takes its selection back
    expect_layer(page, early)
    page.mouse.dblclick(*at(page, early, 2))
    page.wait_for_timeout(700)
    expect_layer(page, early)
    assert outlined_layer(page) == early


def test_hover_and_file_give_the_same_number(shared_page: Page) -> None:  # check 10
    page = shared_page
    rows = exported_csv(page)
    assert len(rows) == len(token_labels(page)) * LAYERS
    page.mouse.move(*at(page, 6, 4))
    page.mouse.move(*at(page, 6.1, 4.1))
    text = page.locator(".hoverlayer .hovertext")
    expect(text).to_be_visible()
    cell = next(row for row in rows if (row["position"], row["layer"]) == ("4", "6"))
    shown = "".join(text.all_text_contents())
    assert "layer 6" in shown
    assert f"indirect effect {float(cell['effect']):.4f}" in shown
    assert token_labels(page)[4] in shown


def test_table_is_the_keyboard_twin(shared_page: Page) -> None:  # check 11
    page = shared_page
    numbers = grid(page)
    page.get_by_role("tab", name="Table").click()
    cells = page.locator("[data-testid=stDataFrame] [role=gridcell]")
    expect(cells.first).to_be_attached()
    shown = [text for text in cells.all_text_contents() if text]
    assert shown[0] == token_labels(page)[0]
    assert [float(text) for text in shown[1 : 1 + LAYERS]] == pytest.approx(numbers[0], abs=6e-4)
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    assert box is not None
    start = slider(page).input_value()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 55)
    expect(slider(page)).not_to_have_value(start, timeout=PATIENCE)
    settled(page)
    before = int(parameters(page)["layer"])
    expect_picked(page, before)
    page.keyboard.press("ArrowRight")
    expect_picked(page, before + 1)


def expect_picked(page: Page, layer: int) -> None:
    expect(slider(page)).to_have_value(str(layer), timeout=PATIENCE)
    page.wait_for_function(f"() => new URLSearchParams(location.search).get('layer') === '{layer}'")


def test_cancel_leaves_a_usable_page_and_no_partial_map(new_page: NewPage, server: Server) -> None:  # check 13
    with server.held():
        page = new_page(run="1", site="all", seed="31")
        expect(page.get_by_text("Tracing, ")).to_be_visible(timeout=PATIENCE)
        button(page, "Cancel").click()
        expect(page.get_by_text("Cancelled. Nothing is shown")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(MAP)).to_have_count(0)
    expect(button(page, "Run trace")).to_be_enabled()
    expect(page.get_by_role("textbox", name="Subject")).to_have_value("Space Needle")
    # The worker is free again: another question is answered.
    page.get_by_role("radio", name="State").click(force=True)
    trace(page)
    before = grid(page)
    assert np.array(before).shape[1] == LAYERS
    # A further trace that is cancelled gives way to the map before it.
    with server.held():
        page.get_by_role("radio", name="MLP").click(force=True)
        button(page, "Run again").click()
        button(page, "Cancel").click(timeout=PATIENCE)
        expect(page.get_by_text("Cancelled; the map is that of the trace before.")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("The inputs have changed since this trace")).to_be_visible(timeout=PATIENCE)
    assert grid(page) == before


def test_typing_and_clicking_during_a_run(new_page: NewPage, server: Server) -> None:  # check 12
    with server.held():
        page = new_page(run="1", site="all", seed="32")
        expect(page.get_by_text("Tracing, ")).to_be_visible(timeout=PATIENCE)
        fill(page, "New answer", "London")
        page.get_by_role("tab", name="Probes").click()
        expect(page.get_by_role("textbox", name="New answer")).to_have_value("London")
        expect(button(page, "Cancel")).to_be_visible()
    traced(page)
    expect(page.locator(MAP)).to_have_count(3)
    drawn = page.evaluate(
        f"""() => Array.from(document.querySelectorAll('{MAP}'),
                             plot => [plot.getBoundingClientRect().y, plot._fullData[0].zmax])"""
    )
    assert drawn[0] == drawn[1] == drawn[2], "side by side, on one scale"
    expect(page.get_by_role("textbox", name="New answer")).to_have_value("London")


def test_two_readers_with_one_question_cause_one_run(new_page: NewPage, server: Server) -> None:  # check 15
    before = server.ask("runs").get("Tracing", 0)
    with server.held():
        pages = [new_page(run="1", seed="33") for _ in range(2)]
        for page in pages:
            expect(button(page, "Cancel")).to_be_visible(timeout=PATIENCE)
    for page in pages:
        traced(page)
    assert grid(pages[0]) == grid(pages[1])
    assert server.ask("runs")["Tracing"] == before + 1


def test_figure_for_a_paper(shared_page: Page) -> None:  # check 22
    page = shared_page
    first = exported(page, "Figure (PDF)")
    assert exported(page, "Figure (PDF)") == first
    reader = PdfReader(io.BytesIO(first))
    assert len(reader.pages) == 1
    assert float(reader.pages[0].mediabox.width) / 72 == pytest.approx(3.25, rel=0.01)
    fonts = reader.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    assert len(fonts) > 0
    for font in fonts.values():
        face = font.get_object()
        described = face["/DescendantFonts"][0].get_object() if "/DescendantFonts" in face else face
        inside = described["/FontDescriptor"].get_object()
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(inside), "a font is not embedded"


def test_other_files(shared_page: Page) -> None:  # check 23
    page = shared_page
    picture = Image.open(io.BytesIO(exported(page, "PNG 300 dpi")))
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.5)  # stored in dots per metre
    assert picture.width == round(3.25 * 300)
    drawing = ElementTree.fromstring(exported(page, "SVG"))
    assert drawing.get("width") == "234pt"  # 3.25 in
    record = json.loads(exported(page, "JSON"))
    assert np.allclose(record["effect"], grid(page), atol=1e-6)
    assert b"<script src" not in exported(page, "HTML")
