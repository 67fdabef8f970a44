"""Pictures of every page, light, dark, Chinese and narrow: `python -m benchmarks.screenshots --out FOLDER`

Starts the page on a free port, opens it in headless Chromium and writes a PNG for each page and look.  The Workbench is
taken with a finished trace of `--model`, and with `--edit` an edit and its metrics; `docs/workbench.png` is its light
one with SmolLM2 135M and the edit.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, expect

from benchmarks.parts.served import chromium, served

PAGES = ("", "lessons", "runs", "batch", "methods")
LOOKS: dict[str, tuple[int, int, str, str]] = {
    "light": (1440, 900, "light", "en"),
    "dark": (1440, 900, "dark", "en"),
    "chinese": (1440, 900, "light", "zh"),
    "narrow": (390, 844, "light", "en"),
}
"""Name -> width and height in pixels, colour scheme, language."""
FACT = {"prompt": "The Eiffel Tower is located in the city of", "subject": "Eiffel Tower", "new": "Rome"}
APPLY, REPORT = re.compile("Apply edit|应用编辑"), re.compile("Report|报告")
"""Buttons; the second is there once the metrics are."""
PATIENCE = 300_000
"""Milliseconds for a trace."""


def main(argv: list[str] | None = None) -> int:
    """Serve, take the pictures, stop."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.screenshots", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"), help="folder (default: %(default)s)")
    parser.add_argument("--model", default="reference", help="of the Workbench (default: %(default)s)")
    parser.add_argument("--pages", nargs="+", choices=["workbench", *PAGES[1:]], help="default: all")
    parser.add_argument("--edit", action="store_true", help="apply an edit on the Workbench")
    parser.add_argument("--looks", nargs="+", choices=tuple(LOOKS), default=tuple(LOOKS))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    pages = [page for page in PAGES if not options.pages or (page or "workbench") in options.pages]
    with served() as address, chromium() as browser:
        for look in options.looks:
            for page in pages:
                path = options.out / f"{page or 'workbench'}-{look}.png"
                _take(browser, address, page, look, options.model, path, edit=options.edit)
                print(path)
    return 0


def _take(browser: Browser, address: str, page: str, look: str, model: str, path: Path, *, edit: bool) -> None:
    width, height, scheme, language = LOOKS[look]
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme, locale=language)  # type: ignore[arg-type]
    tab = context.new_page()
    fields = {"lang": language} | ({} if page else {**FACT, "model": model, "run": "1"})
    tab.goto(f"{address}/{page}?{urlencode(fields)}")
    if page:
        tab.get_by_role("heading").first.wait_for(timeout=PATIENCE)
    else:
        tab.locator(".js-plotly-plot:not(.st-key-blank_map_chart *)").first.wait_for(timeout=PATIENCE)
        if edit:
            tab.get_by_role("button", name=APPLY).click(timeout=PATIENCE)
            tab.get_by_role("button", name=REPORT).wait_for(timeout=PATIENCE)
    for unfinished in ("stStatusWidget", "stSkeleton"):
        expect(tab.get_by_test_id(unfinished)).to_have_count(0, timeout=PATIENCE)
    tab.wait_for_timeout(1500)  # fonts and charts settle
    tab.screenshot(path=path)
    context.close()


if __name__ == "__main__":
    raise SystemExit(main())
