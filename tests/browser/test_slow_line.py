"""A reader who is faster than the line: what was typed and pressed before the page had answered is not lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.actions import PATIENCE, button, fill, parameters, traced

NewPage = Callable[..., Page]
TYPED = "Some say the Space Needle is in the city of"


class Line:
    """The page's connection, which can hold back what the server answers."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._kept: list[tuple[WebSocketRoute, str | bytes]] = []
        self._slow = False
        page.route_web_socket("**/_stcore/stream", self._join)
        page.reload()

    def _join(self, socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        socket.on_message(server.send)
        server.on_message(lambda message: self._answer(socket, message))

    def _answer(self, socket: WebSocketRoute, message: str | bytes) -> None:
        if self._slow:
            self._kept.append((socket, message))
        else:
            socket.send(message)

    @contextmanager
    def slow(self) -> Iterator[None]:
        """The page hears nothing meanwhile, and all of it afterwards."""
        self._slow = True
        yield
        self._slow = False
        for socket, message in self._kept:
            socket.send(message)
        self._kept.clear()

    def answered(self) -> None:
        """Wait until the server has answered, though the page does not know it yet."""
        while not self._kept:
            self._page.wait_for_timeout(50)
        known = -1
        while known != len(self._kept):
            known = len(self._kept)
            self._page.wait_for_timeout(500)


def test_words_typed_before_the_page_has_answered_stay(new_page: NewPage) -> None:
    page = new_page()
    line = Line(page)
    expect(button(page, "Run trace")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator(".tokens").first).to_be_visible(timeout=PATIENCE)
    with line.slow():
        fill(page, "New answer", "Oslo")
        line.answered()
        fill(page, "Prompt", TYPED)
        line.answered()
        button(page, "Run trace").click()
        line.answered()
    traced(page)
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value(TYPED)
    expect(page.get_by_role("textbox", name="New answer")).to_have_value("Oslo")
    assert parameters(page)["prompt"] == TYPED
    assert parameters(page)["new"] == "Oslo"
