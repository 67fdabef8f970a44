"""The Runs page as a reader meets it: what was done is there, two of it side by side, files out and in."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect

from tests.browser.actions import (
    MAP,
    PATIENCE,
    apply_edit,
    button,
    download,
    exported,
    fill_number,
    grid,
    report,
    settled,
    trace,
    traced,
)
from tests.browser.test_access import serious

NewPage = Callable[..., Page]
SEEN = f"{MAP}:visible"
"""The other tab may have maps of its own; it stands behind this one."""
ROW, HEAD = 35, 36
"""Pixels of a table's rows."""


def to_runs(page: Page, count: int) -> None:
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_text(f"{count} of {count} runs")).to_be_visible(timeout=PATIENCE)
    settled(page)


def tick(page: Page, row: int) -> None:
    """Choose a row of the first table."""
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + HEAD + (row + 0.5) * ROW)
    page.wait_for_timeout(300)
    settled(page)


def test_two_traces_side_by_side_and_a_file_back_and_forth(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(run="1", seed="51", layer="4")
    traced(page)
    first = grid(page)
    saved = exported(page, "JSON")
    fill_number(page, "Seed", 52)
    trace(page, "Run again")
    second = grid(page)
    apply_edit(page)
    scores = report(page)
    to_runs(page, 3)  # the newest first: edit, second trace, first trace
    tick(page, 1)
    expect(page.locator(SEEN)).to_have_count(1, timeout=PATIENCE)
    assert download(page, lambda: button(page, "Save JSON").click()) != saved
    tick(page, 2)
    expect(page.locator(SEEN)).to_have_count(2, timeout=PATIENCE)
    page.wait_for_function(f"() => document.querySelectorAll('{MAP}')[1]?._fullData !== undefined")
    assert np.allclose(grid(page, 0), second, atol=1e-6)
    assert np.allclose(grid(page, 1), first, atol=1e-6)
    tops = page.evaluate(f"() => Array.from(document.querySelectorAll('{MAP}'), plot => plot._fullData[0].zmax)")
    assert tops[0] == tops[1]
    expect(page.get_by_text("Their settings differ")).to_be_visible()
    assert serious(page) == []
    tick(page, 2)
    tick(page, 0)
    expect(page.get_by_text("have no numbers in common")).to_be_visible(timeout=PATIENCE)
    tick(page, 2)
    expect(page.get_by_text("only traces are averaged")).to_be_visible(timeout=PATIENCE)
    packed = zipfile.ZipFile(io.BytesIO(download(page, lambda: button(page, "All (zip)").click())))
    assert len(packed.namelist()) == 4
    whole = [json.loads(packed.read(name)) for name in packed.namelist() if "edit" in name]
    assert [one["scores"] for one in whole] == [scores["scores"]]
    page.go_back()  # the link of an earlier moment, but the fields are as they were left
    traced(page)
    page.wait_for_function("() => new URLSearchParams(location.search).get('seed') === '52'")
    expect(page.get_by_text("The inputs have changed")).to_have_count(0)
    # Another reader opens the file.
    (tmp_path / "saved.json").write_bytes(saved)
    (tmp_path / "other.json").write_text("{}")
    other = new_page()
    expect(other.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    settled(other)
    other.get_by_role("link", name="Runs").click()
    button(other, "Open").click()
    other.locator(".st-key-runs_files input[type=file]").set_input_files(
        [tmp_path / "saved.json", tmp_path / "other.json"]
    )
    button(other, "Open them").click()
    expect(other.get_by_text("neither a trace nor scores")).to_be_visible(timeout=PATIENCE)
    other.keyboard.press("Escape")
    expect(other.get_by_text("1 of 1 runs")).to_be_visible(timeout=PATIENCE)
    settled(other)
    tick(other, 0)
    expect(other.locator(SEEN)).to_have_count(1, timeout=PATIENCE)
    assert download(other, lambda: button(other, "Save JSON").click()) == saved
