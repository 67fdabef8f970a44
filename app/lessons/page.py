"""Lessons: eight cases that each open in the Workbench, for a class or for oneself."""

from __future__ import annotations

import os

import streamlit as st

from app.classroom.names import LINK
from app.language.say import ENGLISH, current, say
from app.lessons.cases import LESSONS, Lesson
from app.server import catalog


def draw() -> None:
    """Draw the whole page."""
    _, middle, _ = st.columns([1, 6, 1])
    with middle:
        st.title(say("Lessons"), anchor=False)
        st.caption(
            say(
                "Each lesson opens in the Workbench, in a new tab, with its settings. First say what you expect, then "
                "look. A plan for a class hour is in the docs."
            )
        )
        for number, lesson in enumerate(offered(), 1):
            with st.container(border=True, key=f"lesson_{lesson.name}"):
                _lesson(number, lesson)


def offered() -> tuple[Lesson, ...]:
    """The lessons: in a class those whose model it has, since a reader cannot fetch another there."""
    if LINK not in os.environ:
        return LESSONS
    models = catalog.choices()
    return tuple(lesson for lesson in LESSONS if lesson.fields.get("model", "reference") in models)


def _lesson(number: int, lesson: Lesson) -> None:
    st.header(f"{number} · {say(lesson.title)}", anchor=False)
    st.markdown(say(lesson.question))
    language = "" if current() == ENGLISH else f"&lang={current()}"
    # relative, so that it also works where the server has a path before its pages
    st.link_button(say("Open in the Workbench"), f"./?{lesson.query}{language}", icon=":material/open_in_new:")
    if lesson.edits:
        st.caption(say("When the map stands, press Apply edit."))
    with st.expander(say("What you should see, and why")):
        st.markdown(say(lesson.see, **lesson.numbers))
        st.markdown(say(lesson.why))
        arxiv, authors = lesson.paper
        st.markdown(f"{authors}, [arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})")


draw()
