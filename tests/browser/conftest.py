"""Servers and one Chromium for all browser tests; a fresh browser context (so a fresh session) for each.

Nearly all of it happens on a small random model, which answers at once; the bundled one has a server of its own, which
is started only for the tests that need what it knows.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from tests.browser.actions import LAYERS, PATIENCE, traced
from tests.browser.servers import Server, served

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("ENGRAM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
"""None: the one Playwright has installed, if it has."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with as many layers as the bundled one, the first one's MLP silent as there."""
    from tests.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny")
    layers = {
        "num_layers": LAYERS,
        "num_hidden_layers": LAYERS,
        "attention_types": [[["local", "global"], LAYERS // 2]],
    }
    module, tokenizer = build_tiny("gpt_neo", **layers)
    for parameter in module.transformer.h[0].mlp.parameters():
        parameter.zero_()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Server]:
    """The page with the small model."""
    with served(tmp_path_factory.mktemp("server"), ENGRAM_MODELS=f"reference={tiny_folder}") as running:
        yield running


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as a user starts it."""
    with served(tmp_path_factory.mktemp("bundled"), ENGRAM_MODELS="") as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; without it the tests are skipped, or fail where ENGRAM_REQUIRE_BROWSER=1 demands them."""
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        except Error as error:
            reason = f"no Chromium found (ENGRAM_CHROMIUM may name one): {error.message.splitlines()[0]}"
            if os.environ.get("ENGRAM_REQUIRE_BROWSER") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        yield found
        found.close()


class Opener:
    """Opens pages, each in a browser of its own, and remembers every request that left the server."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self._browser, self._server = browser, server
        self._contexts: list[BrowserContext] = []
        self._strangers: list[str] = []

    def __call__(self, field: str = "Prompt", *, dark: bool = False, width: int = 1440, **params: str) -> Page:
        """A page with these parameters in its link, once that field is there."""
        context = self._browser.new_context(
            viewport={"width": width, "height": 1500},
            accept_downloads=True,
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self._watch(request.url))
        page.on("websocket", lambda socket: self._watch(socket.url))
        page.goto(f"{self._server.address}/?{urlencode(params)}" if params else self._server.address)
        page.get_by_role("textbox", name=field).first.wait_for()
        return page

    def _watch(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != urlsplit(self._server.address).netloc:
            self._strangers.append(url)

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._strangers == [], "requests left the server's host"  # check 2


@pytest.fixture
def new_page(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """Opens the Workbench with the small model; at the end no request may have left the server."""
    opener = Opener(browser, server)
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def shared_page(browser: Browser, server: Server) -> Iterator[Page]:
    """One traced page for all tests of a module that only look at it, pick layers or take files away."""
    opener = Opener(browser, server)
    page = opener(run="1")
    traced(page)
    yield page
    opener.close()


@pytest.fixture
def bundled_page(browser: Browser, bundled_server: Server) -> Iterator[Callable[..., Page]]:
    """Opens the Workbench as a user finds it."""
    opener = Opener(browser, bundled_server)
    yield opener
    opener.close()
