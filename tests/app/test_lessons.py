"""Every lesson shows what it says: its link fills the form, and its numbers come out of the page's own jobs."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from app.__main__ import ROOT
from app.lessons.cases import LESSONS, Lesson
from app.server import cache
from app.server.catalog import choices
from app.session import state
from app.session.asks import EditAsk, ScoreAsk
from app.session.form import Form, default_window
from app.workbench import work
from app.workflow import Located
from facts.watch import UNWATCHED
from models.sources.catalogue import is_fetched


@pytest.fixture(autouse=True, scope="module")
def own_models() -> Iterator[None]:
    cache.shelf.clear()
    yield
    cache.shelf.clear()
    cache.drawer.clear()


def form_of(lesson: Lesson) -> Form:
    """The form that the lesson's link fills."""
    given = dict(parse_qsl(lesson.query))
    assert state.refused_values(given, choices()) == []
    model = choices()[given.get("model", "reference")]
    fields = {"answer": "", "new": "", "window": default_window(model.n_layers)} | state.DEFAULTS | given
    words = {name: str(fields[name]) for name in ("prompt", "subject", "answer", "new", "site")}
    return Form(
        model,
        **words,
        noise=float(fields["noise"]),
        samples=int(fields["samples"]),
        window=int(fields["window"]),
        seed=int(fields["seed"]),
    )


def traced(located: Located) -> dict[str, float]:
    result = located.main
    last_subject, effect = result.subject_span[1] - 1, result.indirect_effect
    return {
        "clean": float(result.clean),
        "total": result.total_effect,
        "largest": result.largest().effect,
        "at_subject": float(effect[last_subject].max()),
        "first_layer": float(effect[last_subject, 0]),
        "last_layer": float(effect[-1, -1]),
    }


def edited(form: Form, layer: int) -> dict[str, float | None]:
    words = (form.model.key, form.prompt, form.subject, form.answer, form.new)
    ask = EditAsk(*words, "r-rome", (("layer", layer),))
    work.edit(ask, UNWATCHED)
    report = work.score(ScoreAsk(ask.model, ask.key, (ask.key,), None), None, UNWATCHED)
    return {score.metric: score.value for score in report.scores if score is report.headline(score.metric)}


@pytest.mark.reference
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_shows_what_it_says(lesson: Lesson) -> None:
    name = lesson.fields.get("model", "reference")
    if not is_fetched(name):
        pytest.skip(f"this lesson needs {name}: python -m models get {name}")
    form = form_of(lesson)
    assert not form.problems
    if lesson.edits:
        measured: dict[str, float | None] = edited(form, int(lesson.fields["layer"]))
    else:
        measured = dict(traced(work.trace(form.trace_ask(), UNWATCHED)))
    for number, value in lesson.numbers.items():
        assert measured[number] == pytest.approx(value, abs=0.00006 if value < 0.01 else 0.0051), number
        assert f"{{{number}:" in lesson.see
    if lesson.name == "layer":
        assert edited(form, 2)["reliability"] == 1.0


def test_the_page_links_to_every_lesson() -> None:
    page = AppTest.from_file(str(ROOT / "app" / "lessons" / "page.py"), default_timeout=60).run()
    assert not page.exception
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"./?{lesson.query}" for lesson in LESSONS]
    assert all("{" not in text.value for text in page.markdown)


def test_a_class_is_shown_the_lessons_whose_model_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CLASS_LINK", "x")
    monkeypatch.setattr("app.server.catalog.choices", lambda: {"reference": None, "glass-box": None})
    page = AppTest.from_file(str(ROOT / "app" / "lessons" / "page.py"), default_timeout=60).run()
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"./?{lesson.query}" for lesson in LESSONS if lesson.name != "chinese"]
    assert len(links) == len(LESSONS) - 1
