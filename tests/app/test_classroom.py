"""Class mode: what `classroom.toml` may say, and what the page shows of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.classroom.settings import Classroom, Limits, read_classroom
from app.server.catalog import offer

ROOT = Path(__file__).parents[2]


def test_the_file_of_the_repository_is_a_class() -> None:
    classroom = read_classroom(ROOT / "classroom.toml").model_copy(update={"address": "10.0.0.7"})
    assert classroom.models == ("reference", "glass-box")
    assert "batch" not in classroom.pages
    assert "run=1" in classroom.link


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classroom.toml"
    path.write_text('language = "fr"\n')
    with pytest.raises(ValueError, match="language is 'fr'"):
        read_classroom(path)
    path.write_text("limit = 3\n")
    with pytest.raises(ValueError, match="limit is 3"):
        read_classroom(path)
    path.write_text('[start]\npromt = "a field that no link has"\n')
    with pytest.raises(ValueError, match=r"start\.promt.* is 'promt': Input should be .*'prompt'"):
        read_classroom(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_classroom(tmp_path / "none.toml")


def test_the_server_is_told_by_variables() -> None:
    classroom = Classroom(
        address="10.0.0.7", port=9000, language="zh", start={"subject": "法国", "run": 1}, limits=Limits(seconds=30)
    )
    told = classroom.environment()
    assert classroom.link == "http://10.0.0.7:9000/?lang=zh&subject=%E6%B3%95%E5%9B%BD&run=1"
    assert told["ENGRAM_ALLOWED_HOSTS"] == "10.0.0.7"
    assert told["ENGRAM_DEADLINE"] == "30"
    assert told["ENGRAM_LANGUAGE"] == "zh"


def test_only_the_models_of_the_class_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    for models in (("reference",), ("glass-box", "reference")):
        for name, value in Classroom(address="10.0.0.7", models=models).environment().items():
            if name.startswith("ENGRAM_"):
                monkeypatch.setenv(name, value)
        assert tuple(offer().models) == models


def test_the_page_shows_the_way_in_and_hides_what_the_class_does_without(
    new_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Classroom(address="10.0.0.7").environment().items():
        if name.startswith("ENGRAM_"):
            monkeypatch.setenv(name, value)
    page = new_page()
    page.switch_page("classroom/page.py").run()
    assert page.title[0].value == "Class"
    assert page.header[0].value == "http://10.0.0.7:8501"
