"""Several edits, files and every layer, as a reader meets them."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.actions import (
    LAYERS,
    PATIENCE,
    apply_edit,
    button,
    choose_layer,
    choose_method,
    download,
    expect_layer,
    fill,
    settled,
    traced,
    undo,
)
from tests.browser.servers import Server

NewPage = Callable[..., Page]


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_two_edits_a_file_and_a_folder(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(run="1", layer="4")
    traced(page)
    choose_method(page, "FT-M")
    apply_edit(page)
    fill(page, "New answer", "Oslo")
    fill(page, "Prompt", "Some say the Space Needle is in the city of")
    apply_edit(page)
    expect(page.get_by_text("2 edits are active")).to_be_visible(timeout=PATIENCE)
    tab(page, "Edits and branches")
    lines = page.locator(".st-key-active_edits").get_by_text("(FT-M, layer 3)")
    expect(lines).to_have_count(2, timeout=PATIENCE)
    saved = download(page, lambda: button(page, "Save").first.click())
    folder = zipfile.ZipFile(io.BytesIO(download(page, lambda: button(page, "Edited model (zip)").click())))
    assert {"edited-model/config.json", "edited-model/model.safetensors"} <= set(folder.namelist())
    # Undo both, then bring the first back from its file.
    undo(page).click()
    expect(lines).to_have_count(1, timeout=PATIENCE)
    undo(page).click()
    expect(lines).to_have_count(0, timeout=PATIENCE)
    (tmp_path / "edit.safetensors").write_bytes(saved)
    page.locator(".st-key-edit_file input[type=file]").set_input_files(tmp_path / "edit.safetensors")
    button(page, "Apply the file").click()
    expect(lines).to_have_count(1, timeout=PATIENCE)
    expect(lines).to_contain_text("The Space Needle is located in the city of → Rome")


def test_every_layer_runs_beside_the_trace_and_can_be_cancelled(new_page: NewPage, server: Server) -> None:
    page = new_page(run="1", seed="41")
    traced(page)
    choose_method(page, "FT-M")
    tab(page, "Every layer")
    with server.held():
        button(page, "Edit every layer").click()
        expect(page.get_by_text("Editing every layer, ")).to_be_visible(timeout=PATIENCE)
        button(page, "Cancel").click()
        expect(page.get_by_text("Nothing is shown of layers")).to_be_visible(timeout=PATIENCE)
    button(page, "Edit every layer").click()
    expect(page.get_by_text(f"n = {LAYERS - 1} layers")).to_be_visible(timeout=PATIENCE)  # all but the silent one
    expect(page.get_by_role("figure", name="The trace is strongest at layer")).to_be_visible()
    settled(page)  # a key pressed while the page is drawn anew may be lost
    choose_layer(page, 6)
    expect_layer(page, 6)
