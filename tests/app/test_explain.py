"""The Methods page tells of every method and every score."""

from streamlit.testing.v1 import AppTest

from app.__main__ import MAIN
from editing import METHODS


def test_every_method_is_explained() -> None:
    page = AppTest.from_file(str(MAIN), default_timeout=120).run().switch_page("methods/page.py").run()
    assert not page.exception
    words = " ".join(markdown.value for markdown in page.markdown)
    for method in METHODS.values():
        assert f"| **{method.title}** | {method.family} |" in words
