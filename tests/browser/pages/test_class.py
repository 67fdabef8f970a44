"""Class mode from its file to the pupils' pages, as `make class` starts it."""

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import segno
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.classroom.settings import LARGE_TEXT
from app.server.gate import FULL
from tests.browser.actions import LAYERS, MAP, PATIENCE, button, grid, settled
from tests.browser.conftest import Opener
from tests.browser.servers import ROOT, Server, free_ports, served

NewPage = Callable[..., Page]
CLASS = """
models = ["reference"]
pages = ["workbench", "lessons"]
language = "zh"
large_text = true
address = "127.0.0.1"
port = {port}

[start]
prompt = "The Eiffel Tower is located in the city of"
subject = "Eiffel Tower"
new = "Rome"
samples = 2
run = 1

[limits]
sessions = 3
"""
START = {"lang": "zh", "prompt": "The Eiffel Tower is located in the city of", "subject": "Eiffel Tower"}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[tuple[Server, Path]]:
    """The server of a class, and what it printed."""
    folder = tmp_path_factory.mktemp("class")
    (port,) = free_ports(1)
    (folder / "my.toml").write_text(CLASS.format(port=port), encoding="utf-8")
    command = ("app.classroom", str(folder / "my.toml"))
    with served(folder, command, port, ENGRAM_MODELS=f"reference={tiny_folder}") as running:
        yield running, folder / "server.txt"


@pytest.fixture
def pupil(browser: Browser, classroom: tuple[Server, Path]) -> Iterator[NewPage]:
    opener = Opener(browser, classroom[0])
    yield opener
    opener.close()


def link(server: Server) -> str:
    return (
        f"{server.address}/?lang=zh&prompt=The+Eiffel+Tower+is+located+in+the+city+of&subject=Eiffel+Tower"
        "&new=Rome&samples=2&run=1"
    )


def test_make_starts_it_with_the_file_that_is_named() -> None:
    said = subprocess.run(
        ["make", "--just-print", "--assume-old=.venv/.app", "class", "CLASSROOM=my.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "-m app.classroom my.toml" in said


def test_the_terminal_shows_the_link_and_its_code(classroom: tuple[Server, Path]) -> None:
    server, log = classroom
    said = log.read_text(encoding="utf-8")
    assert f"The class opens {link(server)}" in said
    assert "█" in said or "▄" in said


def test_the_page_class_shows_the_same_link_as_a_code(pupil: NewPage, classroom: tuple[Server, Path]) -> None:
    server = classroom[0]
    page = pupil("提示")
    settled(page)
    page.get_by_role("link", name="课堂").click()
    expect(page.get_by_role("heading", name=server.address)).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("link", name="打开第一次追踪")).to_have_attribute("href", link(server))
    source = page.locator("[data-testid=stImage] img").evaluate("image => image.src")
    drawn = Image.open(io.BytesIO(page.request.get(source).body())).convert("L")
    modules = np.array([list(row) for row in segno.make(link(server), error="m").matrix_iter(border=4)])
    size = drawn.width / len(modules)
    centres = ((np.arange(len(modules)) + 0.5) * size).astype(int)
    assert np.array_equal(np.array(drawn)[np.ix_(centres, centres)] < 128, modules == 1)


def test_a_pupil_finds_what_the_file_says(pupil: NewPage) -> None:
    page = pupil("提示", **START, new="Rome", samples="2", run="1")
    expect(page.locator(MAP).first).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert len(grid(page)[0]) == LAYERS
    assert page.evaluate("() => getComputedStyle(document.documentElement).fontSize") == f"{LARGE_TEXT}px"
    expect(page.get_by_role("link", name="课程")).to_be_visible()
    for hidden in ("批量", "运行记录", "方法"):
        expect(page.get_by_role("link", name=hidden)).to_have_count(0)
    button(page, "更多模型").click()
    expect(page.get_by_text("数值格式").first).to_be_visible()
    expect(page.locator(".st-key-get")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="模型").first.click()
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="EN").click(force=True)  # everybody can switch
    expect(page.get_by_role("textbox", name="Prompt")).to_be_visible(timeout=PATIENCE)


def test_the_first_visit_is_in_the_language_of_the_class(pupil: NewPage) -> None:
    page = pupil("提示")
    expect(page.get_by_role("textbox", name="提示")).to_be_visible()


def test_more_pages_than_places_are_told(browser: Browser, pupil: NewPage, classroom: tuple[Server, Path]) -> None:
    for _ in range(3):
        pupil("提示")
    context = browser.new_context()
    answer = context.new_page().goto(classroom[0].address)
    assert answer is not None
    assert answer.status == 503
    assert "All places are taken" in answer.text()
    assert answer.text() == FULL
    context.close()
