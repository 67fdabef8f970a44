"""The tab "Lens": what each layer would answer, for the true and the new answer, without and with the active edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server.jobs import Runner
from app.session.asks import LensAsk
from app.session.form import Form
from app.shared.waiting import Waiting
from app.workbench import ledger
from app.workbench.compare import asking, work

if TYPE_CHECKING:
    from tracing.lenses.logit import LensResult

PLAIN = {"displayModeBar": False, "doubleClick": False}
"""Configuration of charts that are only looked at."""


def draw(form: Form, runner: Runner) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        say(
            "The logit lens reads the state of every layer through the model’s own last norm and head (nostalgebraist "
            "2020): what the model would say if it stopped there. Lines show the last token of the prompt."
        )
    )
    ask = LensAsk(
        form.model.key,
        form.prompt,
        form.subject,
        form.answer.strip(),
        form.new.strip(),
        ledger.active(),
        form.occurrence,
    )
    results, waiting = asking.draw(
        runner, ask, work.lens, button=later("Read every layer"), label=later("Reading every layer"),
        why_not=later("First correct the field named above.") if form.problems else "",
    )  # fmt: skip
    if results:
        _show(results)
    return waiting


def _show(results: tuple[LensResult, ...]) -> None:
    from app.workbench.compare.plots import lens_lines
    from tracing.plots.lenses import lens_chart

    dark = st.context.theme.type == "dark"
    st.plotly_chart(lens_lines(results, dark=dark), key="lens_lines", config=PLAIN, alt=told(results))
    st.caption(told(results))
    with st.expander(say("Every token")):
        for name, result in zip((later("Without the edits"), later("With the edits")), results, strict=False):
            st.markdown(f"**{said(name if len(results) > 1 else later('First choice of every state'))}**")
            figure = lens_chart(result)
            figure.update_layout(title=None, height=90 + 28 * len(result.tokens))
            st.plotly_chart(
                figure, key=f"lens_{name}", config=PLAIN, alt=say("Logit lens of every token. {name}.", name=said(name))
            )


def told(results: tuple[LensResult, ...]) -> str:
    """The lines in words: from which layer on each answer comes first at the last token."""
    words = []
    for name, result in zip((say("without the edits"), say("with them")), results, strict=False):
        for index, word in enumerate(result.words):
            rank = result.rank[index, -1]
            first = next((layer for layer in range(len(rank)) if (rank[layer:] == 1).all()), None)
            where = (
                say("does not come first at the end")
                if first is None
                else say("comes first from layer {first} on", first=first)
            )
            words.append(f"{word} {where}" + (f" {name}" if len(results) > 1 else ""))
    return say("; ").join(words) + say(".")
