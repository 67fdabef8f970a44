"""Editing and evaluating on the page; two readers at once."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect

from metrics.definitions import METRICS as TABLE
from tests.browser.actions import (
    PATIENCE,
    apply_edit,
    button,
    choose_layer,
    choose_method,
    fill,
    fill_number,
    grid,
    parameters,
    report,
    scored,
    settled,
    tile,
    trace,
    traced,
    undo,
)
from tests.browser.servers import Server

NewPage = Callable[..., Page]
METRICS = tuple(metric.label for metric in TABLE.values())


def unedited(folder: Path, seed: int) -> np.ndarray:
    """The same map from the library, on a model nobody has edited: [pos, layer]."""
    import torch

    from app import workflow
    from app.session.examples import DEFAULT
    from app.session.form import default_window
    from facts import Fact
    from models import load_model

    torch.set_num_threads(1)  # as the server; sums depend on how they are split
    model = load_model(folder)
    fact = Fact.from_prompt(DEFAULT.prompt, DEFAULT.subject)
    (result,) = workflow.locate(model, fact, ["mlp_out"], window=default_window(model.n_layers), seed=seed).results
    effect: np.ndarray = result.indirect_effect
    return effect


def test_apply_shows_five_metrics_and_undo_takes_them_back(
    new_page: NewPage, server: Server, tiny_folder: Path
) -> None:  # checks 16 and 17
    page = new_page(run="1", layer="4")
    traced(page)
    weights = server.ask("weights")
    apply_edit(page)
    for name in METRICS:
        expect(tile(page, name)).to_contain_text("n = ")
        expect(tile(page, name).get_by_role("button", name=f"Help for {name}")).to_be_visible()
    first = report(page)
    headlines = [score for score in first["scores"] if score["headline"]]
    assert [score["metric"] for score in headlines] == [name.lower() for name in METRICS]
    assert first["about"]["layer"] == 4
    page.get_by_role("tab", name="Text before and after").click()
    expect(page.get_by_text("Before", exact=True).first).to_be_visible()
    undo(page).click()
    expect(page.locator(".st-key-tiles").get_by_text("—")).to_have_count(5)
    expect(undo(page)).to_have_count(0)
    # Hashed anew in the server, not read off a record.
    assert server.ask("weights") == weights
    # Traced anew after the edit, the numbers are those of a model never edited.
    fill_number(page, "Seed", 17)
    button(page, "Run again").click()
    expect(page.get_by_text("The inputs have changed")).to_have_count(0, timeout=PATIENCE)
    traced(page)
    assert np.array_equal(np.array(grid(page), dtype=np.float32), unedited(tiny_folder, 17))
    choose_layer(page, 4)  # the new trace has its own suggestion
    apply_edit(page)
    assert report(page)["revision"] == first["revision"]


def test_a_reload_keeps_the_edits_and_shows_them_to_nobody_else(new_page: NewPage) -> None:
    page = new_page(run="1", layer="4")
    traced(page)
    fill(page, "New answer", "Oslo")
    choose_method(page, "FT-M")
    apply_edit(page)
    scores = report(page)["scores"]
    page.reload()
    traced(page)
    scored(page)
    assert report(page)["scores"] == scores
    expect(page.get_by_role("combobox", name="Method")).to_have_value(re.compile("FT-M"))
    expect(page.locator(".st-key-edited_view")).to_contain_text("Oslo (FT-M, layer")
    stranger = new_page(**parameters(page))  # the same link in another browser
    traced(stranger)
    settled(stranger)
    expect(stranger.locator(".st-key-edited_view")).to_have_count(0)
    expect(stranger.locator(".st-key-tiles").get_by_text("—")).to_have_count(5)
    undo(page).click()
    expect(page.locator(".st-key-edited_view")).to_have_count(0)
    page.reload()
    traced(page)
    expect(undo(page)).to_have_count(0)


def test_one_reader_edits_while_another_traces(
    new_page: NewPage, server: Server, tiny_folder: Path
) -> None:  # check 14
    editor, reader = new_page(run="1", layer="5"), new_page(seed="23")
    traced(editor)
    with server.held():
        button(editor, "Apply edit").click()
        expect(editor.get_by_text("Computing the edit")).to_be_visible(timeout=PATIENCE)
        button(reader, "Run trace").click()
        expect(reader.get_by_text("1 ahead of you")).to_be_visible(timeout=PATIENCE)
    traced(reader)
    scored(editor)
    assert np.array_equal(np.array(grid(reader), dtype=np.float32), unedited(tiny_folder, 23))
    assert tile(reader, "Reliability").get_by_text("—").count() == 1
    trace_again = np.array(grid(reader))
    fill_number(reader, "Seed", 24)
    trace(reader, "Run again")
    assert not np.array_equal(np.array(grid(reader)), trace_again)
