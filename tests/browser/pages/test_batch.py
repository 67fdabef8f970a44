"""The Batch page as a reader meets it: a file with a bad row, an estimate, a run that outlives its page, its map."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import MAP, PATIENCE, button, download, settled
from tests.browser.test_access import serious

NewPage = Callable[..., Page]
SUBJECTS = ("Rome", "Oslo", "Bern", "Lima", "Paris", "Cairo", "Athens", "Berlin", "Madrid", "Tokyo", "Vienna", "Dublin")
N_KNOWN = 3
"""Facts of the file, which are one cell."""


@pytest.fixture(scope="module")
def dataset(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts that the small model knows: what it says itself is taken for true; and a row without a prompt."""
    from app.first_look import look
    from facts import Fact
    from models import load_model
    from tracing.engine.averaging import knows
    from tracing.engine.question import ask

    model = load_model(str(tiny_folder))
    rows = []
    for subject in SUBJECTS:
        prompt = f"{subject} is the capital of"
        answer = look(model, prompt, subject).answer
        # Some of what a random model says does not read back as the tokens it said.
        if knows(model, ask(model, Fact.from_prompt(prompt, subject, answer))):
            rows.append({"subject": subject, "prompt": prompt, "target_true": answer, "target_new": "Atlantis"})
    rows = rows[:N_KNOWN]
    assert len(rows) == N_KNOWN
    rows.append({"subject": "Quito", "prompt": "", "target_true": "Peru"})
    path = tmp_path_factory.mktemp("data") / "capitals.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def to_batch(page: Page) -> None:
    expect(page.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)  # the Workbench has come to rest
    settled(page)
    page.get_by_role("link", name="Batch").click()
    expect(page.get_by_role("heading", name="3 · Start")).to_be_visible(timeout=PATIENCE)
    settled(page)


def test_from_edits_to_a_leaderboard(new_page: NewPage, dataset: Path) -> None:
    page = new_page()
    to_batch(page)
    page.get_by_text("A file", exact=True).click()
    page.locator(".st-key-batch_file input[type=file]").set_input_files(dataset)
    expect(page.get_by_text(f": {N_KNOWN} cases")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Edit facts", exact=True).click()
    expect(page.get_by_text("Only facts the model knows")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_role("button", name="R-ROME", exact=True).click()  # leaves FT-M
    settled(page)
    button(page, "Estimate").click()
    expect(page.get_by_text(f"{N_KNOWN} cells over")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text(f"Finished: {N_KNOWN} of {N_KNOWN} cells done")).to_be_visible(timeout=2 * PATIENCE)
    expect(page.get_by_text("Leaderboard, protocol engram")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text(f"Means over the n = {N_KNOWN} facts")).to_be_visible()
    settled(page)
    assert serious(page) == []
    scores = download(page, lambda: button(page, "Scores (CSV)").click()).decode()
    rows = list(csv.DictReader(io.StringIO(scores)))
    assert {(row["method"], row["protocol"]) for row in rows} == {("ft-m", "engram")}
    edited = {row["subject"] for row in rows if row["name"].startswith("reliability")}
    assert len(edited) == N_KNOWN
    assert edited <= set(SUBJECTS)
    button(page, "Close").click()
    expect(page.get_by_text("Leaderboard, protocol engram")).to_have_count(0, timeout=PATIENCE)


def test_from_a_file_to_an_averaged_map(new_page: NewPage, dataset: Path) -> None:
    page = new_page()
    to_batch(page)
    expect(page.get_by_text("Atlas: ")).to_be_visible(timeout=PATIENCE)
    assert serious(page) == []
    page.get_by_text("A file", exact=True).click()
    page.locator(".st-key-batch_file input[type=file]").set_input_files(dataset)
    expect(page.get_by_text(f": {N_KNOWN} cases")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("1 row could not be read")).to_be_visible()
    aside = json.loads(download(page, lambda: button(page, "Rows set aside (JSON Lines)").click()))
    assert (aside["row"], aside["field"]) == (N_KNOWN + 1, "prompt")
    button(page, "Estimate").click()
    expect(page.get_by_text("1 cell over")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert serious(page) == []
    page.get_by_role("textbox", name="Name").fill("capitals")
    page.get_by_role("textbox", name="Name").press("Enter")
    settled(page)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="capitals")).to_be_visible(timeout=PATIENCE)
    page.close()  # the run goes on
    other = new_page()
    expect(other.locator(".tokens span").first).to_be_visible(timeout=PATIENCE)
    settled(other)
    other.get_by_role("link", name="Runs").click()
    other.get_by_role("tab", name="Experiments").click()
    expect(other.get_by_text("Finished: 1 of 1 cells done")).to_be_visible(timeout=2 * PATIENCE)
    expect(other.locator(MAP)).to_have_count(3, timeout=PATIENCE)
    expect(other.get_by_text(f"n = {N_KNOWN} facts")).to_be_visible()
    settled(other)
    assert serious(other) == []
    table = download(other, lambda: button(other, "Cells (CSV)").click()).decode()
    assert table.count("done") == 1
