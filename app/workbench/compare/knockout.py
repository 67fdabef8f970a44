"""The tab "Knockout": what the answer loses when the last token may not read the subject, or the other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server.jobs import Runner
from app.session.asks import KnockoutAsk
from app.session.form import Form
from app.shared.waiting import Waiting
from app.shared.wording import probability
from app.workbench.compare import asking, work
from app.workbench.compare.lens import PLAIN

if TYPE_CHECKING:
    from tracing.lenses.knockout import KnockoutResult

READ = {"subject": later("the subject"), "relation": later("the other words"), "last": later("itself")}
"""What the last token reads, by the name of the edges."""


def draw(form: Form, runner: Runner) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        say(
            "Attention from the last token to other tokens is cut in a window of layers (Geva "
            "et al. 2023). A deep fall "
            "for the subject says that the last token fetches the answer from there in these layers."
        )
    )
    window = int(
        st.number_input(
            say("Layers cut together"),
            1,
            form.model.n_layers,
            max(1, form.model.n_layers // 5),
            key=f"knockout_window_{form.model.name}",
            persist_state="session",
            width=200,
        )
    )
    ask = KnockoutAsk(form.model.key, form.prompt, form.subject, form.answer.strip(), window, form.occurrence)
    result, waiting = asking.draw(
        runner,
        ask,
        work.knockout,
        button=later("Cut attention"),
        label=later("Cutting attention"),
        why_not=later("First correct the field named above.") if form.problems else "",
    )
    if result is not None:
        from app.workbench.compare.plots import knockout_lines

        figure = knockout_lines(result, READ, dark=st.context.theme.type == "dark")
        st.plotly_chart(figure, key="knockout_lines", config=PLAIN, alt=told(result))
        st.caption(told(result))
    return waiting


def told(result: KnockoutResult) -> str:
    """The lines in words: where each cut costs most."""
    words = []
    for name, change in zip(result.edges, result.change, strict=True):
        layer = int(change.argmin())
        read = said(READ.get(name.rpartition(" ")[2], name))
        words.append(
            say(
                "not reading {read} costs most around layer {layer} ({value:.1f} %)",
                read=read,
                layer=layer,
                value=100 * change[layer],
            )
        )
    sentence = say("; ").join(words).replace("-", "−")
    return say(
        "p({answer}) is {clean} with nothing cut. {sentence}.",
        answer=result.answer,
        clean=probability(result.clean),
        sentence=sentence[:1].upper() + sentence[1:],
    )
