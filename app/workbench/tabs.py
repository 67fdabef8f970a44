"""What stands below the fold, in tabs: the prompts and texts behind the scores, every layer, the edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.server.jobs import Job, Runner
from app.session.asks import EditAsk
from app.session.form import Form
from app.shared.waiting import Waiting
from app.workbench import edits, evaluate, layers_tab

if TYPE_CHECKING:
    from metrics import EditReport

NAMES = ("Prompts", "Text before and after", "Probes", "Every layer", "Edits and branches")


def draw(
    form: Form, runner: Runner, trace: Job | None, ask: EditAsk | None, edit: Job | None, scores: Job | None
) -> list[Waiting]:
    """Draw all tabs."""
    prompts, texts, probes, layers, ours = st.tabs(NAMES, key="below")
    report: EditReport | None = evaluate.report_of(scores)
    with prompts:
        evaluate.prompts(report)
    with texts:
        evaluate.texts(report)
    with probes:
        evaluate.probes(form, edit, scores)
    with layers:
        waiting = layers_tab.draw(runner, ask, trace)
    with ours:
        waiting += edits.draw(runner)
    return waiting
