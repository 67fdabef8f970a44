"""Editing and evaluating on the page; two readers at once."""

from collections.abc import Callable

import numpy as np
from playwright.sync_api import Page, expect

from tests.browser.actions import (
    PATIENCE,
    apply_edit,
    button,
    choose_layer,
    fill,
    grid,
    report,
    scored,
    tile,
    trace,
    traced,
)

NewPage = Callable[..., Page]
METRICS = ("Reliability", "Generalization", "Locality", "Portability", "Efficiency")


def unedited(seed: int) -> np.ndarray:
    """The same map from the library, on a model nobody has edited: [pos, layer]."""
    import torch

    from app import workflow
    from app.catalog import choices
    from app.examples import DEFAULT
    from app.state import default_window
    from facts import Fact
    from models import load_model

    torch.set_num_threads(1)  # as the server; sums depend on how they are split
    model = load_model(choices()["reference"].source)
    fact = Fact.from_prompt(DEFAULT.prompt, DEFAULT.subject)
    (result,) = workflow.trace(model, fact, ["mlp_out"], window=default_window(model.n_layers), seed=seed)
    effect: np.ndarray = result.indirect_effect
    return effect


def test_apply_shows_five_metrics_and_undo_takes_them_back(new_page: NewPage) -> None:  # checks 16 and 17
    page = new_page(run="1", layer="4")
    traced(page)
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
    button(page, "Undo").click()
    expect(page.locator(".st-key-tiles").get_by_text("—")).to_have_count(5)
    expect(button(page, "Undo")).to_have_count(0)
    # The same weights as before: traced anew after the edit, the numbers are those of a model never edited.
    fill_seed(page, 17)
    button(page, "Run again").click()
    expect(page.get_by_text("Inputs changed")).to_have_count(0, timeout=PATIENCE)
    traced(page)
    assert np.array_equal(np.array(grid(page), dtype=np.float32), unedited(17))
    choose_layer(page, 4)  # the new trace has its own suggestion
    apply_edit(page)
    assert report(page)["revision"] == first["revision"]


def fill_seed(page: Page, seed: int) -> None:
    button(page, "Settings").click()
    box = page.get_by_role("spinbutton", name="Seed")
    box.fill(str(seed))
    box.press("Enter")
    page.keyboard.press("Escape")
    expect(button(page, "Run again")).to_be_visible(timeout=PATIENCE)


def test_without_probes_a_metric_is_not_measured_and_never_zero(new_page: NewPage) -> None:  # check 16
    page = new_page(prompt="Some say the Space Needle stands in", run="1", layer="4")
    traced(page)
    apply_edit(page)
    expect(tile(page, "Reliability")).to_contain_text("n = 1")
    for name in ("Generalization", "Locality", "Portability"):
        expect(tile(page, name)).to_contain_text("—")
        expect(tile(page, name)).to_contain_text("Not measured")
        expect(tile(page, name)).not_to_contain_text("0 %")


def test_one_reader_edits_while_another_traces(new_page: NewPage) -> None:  # check 14
    editor, reader = new_page(run="1", layer="4"), new_page(seed="23")
    traced(editor)
    button(editor, "Apply edit").click()
    trace(reader)
    scored(editor)
    assert np.array_equal(np.array(grid(reader), dtype=np.float32), unedited(23))
    assert tile(reader, "Reliability").get_by_text("—").count() == 1


def test_changes_after_an_edit_are_marked(new_page: NewPage) -> None:
    page = new_page(run="1", layer="4")
    traced(page)
    apply_edit(page)
    fill(page, "New answer", "London")
    expect(page.get_by_text("Inputs changed since this edit")).to_be_visible(timeout=PATIENCE)
    button(page, "Apply edit").click()
    expect(page.get_by_text("→ London.")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Inputs changed since this edit")).to_have_count(0)
