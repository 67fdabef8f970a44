"""Seconds that a reader of the page waits: `python -m benchmarks.app`, headless Chromium, nothing else running.

For each round a server of its own is started with an empty cache (fetched weights are kept), and one tab does the main
job on it, by the clock:

    first paint     from opening the address until the name of the page stands there
    model ready     from opening the address until the model's answer to the prompt stands there
    first heatmap   from the click on Run until a map is drawn: the first sample's where all take long
    whole map       from the same click until all samples are in
    first edit      from the click on Apply until five metrics stand there, with nothing known yet
    edit            the same for a further edit, at another layer
    later tab: ...  the first two for another reader, whose browser knows nothing of the page either

The first tab waits for a server that was started a moment ago to load its packages and the model as well.  `--json`
prints the seconds of all rounds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page

from benchmarks.parts.served import chromium, served
from models.sources.catalogue import folder_of

PATIENCE = 600_000
"""Milliseconds."""
MUST = {
    "reference": {"first paint": 1.5, "model ready": 4.0, "first heatmap": 1.5, "first edit": 8.0, "edit": 3.0},
    "smollm2-135m": {"first heatmap": 2.0},
}
"""Seconds that were asked for before anything was measured."""
FACT = {"prompt": "The Space Needle is located in the city of", "subject": "Space Needle", "new": "Rome"}
MAP = "() => document.querySelector('.js-plotly-plot:not(.st-key-blank_map_chart *)')?._fullLayout?.xaxis !== undefined"


def timed(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds until each step has passed, from the start of the first, which has no name."""
    began, seconds = time.perf_counter(), {}
    for name, step in steps.items():
        step()
        seconds[name] = time.perf_counter() - began
    return {name: value for name, value in seconds.items() if name}


def arrive(page: Page, address: str, model: str) -> dict[str, float]:
    """Open the page and wait until it has read the prompt."""
    page.set_default_timeout(PATIENCE)
    return timed({
        "": lambda: page.goto(f"{address}/?{urlencode({**FACT, 'model': model})}", wait_until="commit"),
        "first paint": page.get_by_role("heading", level=1).wait_for,
        "model ready": page.locator(".read.now").wait_for,
    })  # fmt: skip


def look(page: Page, address: str, model: str) -> dict[str, float]:
    """The main job in one tab; seconds by what was waited for."""

    def button(name: str) -> Callable[[], object]:
        return lambda: page.locator(f".st-key-{name} button:enabled").wait_for()

    seconds = arrive(page, address, model)
    seconds |= timed({
        "": page.locator(".st-key-run_trace button").click,
        "first heatmap": lambda: page.wait_for_function(MAP),
        "whole map": lambda: (button("run_trace")(), button("apply_edit")()),
    })  # fmt: skip
    for name in ("first edit", "edit"):
        seconds |= timed({
            "": page.locator(".st-key-apply_edit button").click,
            name: page.get_by_role("button", name=re.compile("Report")).wait_for,
        })  # fmt: skip
        page.locator(".st-key-undo button").click()
        page.locator(".st-key-edited_view").wait_for(state="detached")
        slider = page.get_by_role("slider", name="Layer")
        slider.press("ArrowRight")
        button("apply_edit")()
        page.wait_for_timeout(1000)
    return seconds


def rounds(model: str, count: int) -> list[dict[str, float]]:
    """A server, a browser and an empty cache for each."""
    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            cache = Path(folder)
            if model != "reference":
                (cache / "models").mkdir()
                (cache / "models" / model).symlink_to(folder_of(model), target_is_directory=True)
            with served(cache / "log.txt", ENGRAM_CACHE=folder, ENGRAM_RUNS=str(cache / "runs")) as address:
                first, later = (browser.new_context(viewport={"width": 1440, "height": 900}) for _ in range(2))
                seconds = look(first.new_page(), address, model)
                first.close()
                after = arrive(later.new_page(), address, model)
                found.append(seconds | {f"later tab: {name}": value for name, value in after.items()})
    return found


def main(argv: list[str] | None = None) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.app", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["reference", "smollm2-135m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    found = {model: rounds(model, options.rounds) for model in options.models}
    if options.json:
        print(json.dumps(found))
        return 0
    print("| model | what | seconds (all rounds) | asked |\n|---|---|---|---|")
    for model, all_ in found.items():
        for name in all_[0]:
            values = sorted(one[name] for one in all_)
            must = MUST.get(model, {}).get(name)
            said = "" if must is None else f"{must:g}, {'met' if statistics.median(values) <= must else 'missed'}"
            spread = f"{statistics.median(values):.2f} ({values[0]:.2f}–{values[-1]:.2f})"
            print(f"| {model} | {name} | {spread} | {said} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
