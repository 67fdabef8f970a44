"""What stands below the fold, in tabs: prompts and texts behind the scores, other looks at the prompt, edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import in_every_language, later, said
from app.server.job import Job
from app.server.jobs import Runner
from app.session.asks import EditAsk
from app.session.form import Form
from app.shared.waiting import Waiting
from app.workbench import edits, evaluate
from app.workbench.compare import breaks, code, difference, every_layer, knockout, lens, two_prompts

if TYPE_CHECKING:
    from metrics import EditReport

NAMES = (
    later("Prompts"),
    later("Text before and after"),
    later("Probes"),
    later("Every layer"),
    later("What will it break?"),
    later("Difference"),
    later("Lens"),
    later("Knockout"),
    later("Two prompts"),
    later("Edits and branches"),
    later("As code"),
)


def draw(
    form: Form, runner: Runner, trace: Job | None, ask: EditAsk | None, edit: Job | None, scores: Job | None
) -> list[Waiting]:
    """Draw the tabs.  Those that look at the prompt again are drawn when they are open; the others hold fields."""
    opened = st.session_state.get("below")
    if opened not in (None, *map(said, NAMES)):  # the language has changed since
        st.session_state.below = next((said(name) for name in NAMES if opened in in_every_language(name)), None)
    tabs = dict(zip(NAMES, st.tabs([said(name) for name in NAMES], key="below", on_change="rerun"), strict=True))
    report: EditReport | None = evaluate.report_of(scores)
    with tabs["Prompts"]:
        evaluate.prompts(report)
    with tabs["Text before and after"]:
        evaluate.texts(report)
    with tabs["Probes"]:
        evaluate.probes(form, edit, scores)
    with tabs["Every layer"]:
        waiting = every_layer.draw(runner, ask, trace)
    with tabs["Edits and branches"]:
        waiting += edits.draw(runner)
    again: dict[str, Callable[[], list[Waiting]]] = {
        "What will it break?": lambda: breaks.draw(form, runner, ask),
        "Difference": lambda: difference.draw(form, runner, trace),
        "Lens": lambda: lens.draw(form, runner),
        "Knockout": lambda: knockout.draw(form, runner),
        "Two prompts": lambda: two_prompts.draw(form, runner),
        "As code": code.draw,
    }
    for name, draw_tab in again.items():
        if tabs[name].open:
            with tabs[name]:
                waiting += draw_tab()
    return waiting
