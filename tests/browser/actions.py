"""What a reader does on the Workbench, and what is to be seen there; shared by the browser tests."""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Download, Locator, Page, expect

from app.server.catalog import Choice, choices

PATIENCE = 90_000
"""Milliseconds; nothing here measures speed, and test machines are busy."""
LAYERS = choices()["reference"].n_layers
"""Of the bundled model, and of the small one that stands in for it."""
FIRST_LAYER = Choice("reference", "", LAYERS).usual.layer
"""Where the small model's slider stands before there is a trace: its size has no card."""
MAP = ".js-plotly-plot:not(.st-key-blank_map_chart *)"
"""A map of a trace; before the first one pale cells stand in its place."""


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def trace(page: Page, run: str = "Run trace") -> None:
    """Press Run and wait for the map."""
    expect(button(page, run)).to_be_enabled(timeout=PATIENCE)
    button(page, run).click()
    expect(button(page, "Run again")).to_have_count(0, timeout=PATIENCE)
    traced(page)


def traced(page: Page) -> None:
    """Wait for the map."""
    expect(page.locator(MAP).first).to_be_visible(timeout=PATIENCE)
    expect(button(page, "Apply edit")).to_be_enabled(timeout=PATIENCE)
    page.wait_for_function(f"() => document.querySelector('{MAP}')?._fullLayout?.xaxis !== undefined")
    settled(page)


def apply_edit(page: Page) -> None:
    """Press Apply, which may leave a field that was changed, and wait for the scores."""
    button(page, "Apply edit").click()
    scored(page)


def undo(page: Page) -> Locator:
    """The button that takes the last edit back; every line of the ledger has one of its own."""
    return page.locator(".st-key-undo").get_by_role("button")


def scored(page: Page) -> None:
    expect(button(page, "Report")).to_be_visible(timeout=PATIENCE)


def grid(page: Page, index: int = 0) -> list[list[float]]:
    """The numbers of the map as drawn, [token][layer]."""
    drawn: list[list[float]] = page.evaluate(
        """([map, i]) => { const z = document.querySelectorAll(map)[i]._fullData[0].z;
                  return Array.from(z, row => Array.from(row)) }""",
        [MAP, index],
    )
    return drawn


def token_labels(page: Page) -> list[str]:
    labels: list[str] = page.evaluate(f"() => document.querySelector('{MAP}').layout.yaxis.ticktext")
    return labels


OUTLINED = f"""() => {{
    const plot = document.querySelector('{MAP}'), axis = plot?._fullLayout?.xaxis;
    const drawn = plot && getComputedStyle(plot.closest('[data-testid=stPlotlyChart]'), '::after');
    if (!axis || !drawn || drawn.position !== 'absolute') return null;
    const middle = axis.p2l(parseFloat(drawn.left) + parseFloat(drawn.width) / 2 - axis._offset);
    return Math.abs(middle - Math.round(middle)) < 0.1 ? Math.round(middle) : null }}"""
"""The layer whose column the outline is drawn around, as it lies on the screen; null where it lies askew or nowhere."""


def outlined_layer(page: Page) -> int:
    return int(page.evaluate(OUTLINED))


def at(page: Page, layer: float, token: float) -> tuple[float, float]:
    """Where a place of the map, in cells, lies on the screen."""
    page.locator(MAP).first.scroll_into_view_if_needed()
    x, y = page.evaluate(
        f"""([layer, token]) => {{
            const plot = document.querySelector('{MAP}'), box = plot.getBoundingClientRect(), l = plot._fullLayout;
            return [box.x + l.xaxis._offset + l.xaxis.l2p(layer), box.y + l.yaxis._offset + l.yaxis.l2p(token)] }}""",
        [layer, token],
    )
    return float(x), float(y)


def choose_layer(page: Page, layer: int) -> None:
    """By keyboard, from the left end."""
    slider(page).focus()
    slider(page).press("Home")
    for _ in range(layer):
        slider(page).press("ArrowRight")
    settled(page)


def slider(page: Page) -> Locator:
    return page.get_by_role("slider", name="Layer")


def expect_layer(page: Page, layer: int) -> None:
    """Slider, outline and URL agree."""
    expect(slider(page)).to_have_value(str(layer), timeout=PATIENCE)
    page.wait_for_function(f"layer => ({OUTLINED})() === layer", arg=layer, timeout=PATIENCE)
    page.wait_for_function(
        # A field at its default leaves the URL.
        f"layer => (new URLSearchParams(location.search).get('layer') ?? '{FIRST_LAYER}') === String(layer)",
        arg=layer,
        timeout=PATIENCE,
    )


def choose_method(page: Page, title: str) -> None:
    """The method of that title, whatever is said behind it."""
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name=re.compile(rf"^{re.escape(title)} ")).click()
    expect(page.get_by_role("combobox", name="Method")).to_have_value(re.compile(rf"^{re.escape(title)} "))
    settled(page)


def settled(page: Page) -> None:
    """Wait until the script has run."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'", timeout=PATIENCE
    )


def parameters(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def fill_number(page: Page, name: str, value: int) -> None:
    """Change one of the trace's settings."""
    button(page, "Settings").click()
    box = page.get_by_role("spinbutton", name=name)
    box.fill(str(value))
    box.press("Enter")
    page.keyboard.press("Escape")
    expect(button(page, "Run again")).to_be_visible(timeout=PATIENCE)


def fill(page: Page, name: str, text: str) -> None:
    """Type into a field and leave it."""
    box = page.get_by_role("textbox", name=name)
    box.fill(text)
    box.press("Enter")


def download(page: Page, press: Callable[[], Any]) -> bytes:
    """The bytes of the file that a click sends; a button that is being drawn anew would not send any."""
    settled(page)
    with page.expect_download() as waiting:
        press()
    found: Download = waiting.value
    return found.path().read_bytes()


def exported(page: Page, kind: str) -> bytes:
    """A file from the Export panel: two clicks."""
    button(page, "Export").click()
    data = download(page, lambda: page.get_by_role("button", name=kind, exact=True).click())
    page.keyboard.press("Escape")
    return data


def exported_csv(page: Page) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(page, "CSV").decode())))


def report(page: Page) -> dict[str, Any]:
    """The report of the edit as JSON."""
    button(page, "Report").click()
    data: dict[str, Any] = json.loads(
        download(page, lambda: page.get_by_role("button", name="JSON", exact=True).last.click())
    )
    page.keyboard.press("Escape")
    return data


def tile(page: Page, name: str) -> Locator:
    """One of the five tiles."""
    return page.locator(".st-key-tiles [data-testid=stColumn]").filter(has_text=name)
