"""The tab "Difference": the same trace without and with the active edits, and what changed, on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import later, said, say
from app.server.job import Job
from app.server.jobs import Runner
from app.session.asks import DifferenceAsk, TraceAsk
from app.session.form import Form
from app.session.session import session
from app.shared import export
from app.shared.waiting import Waiting
from app.shared.wording import plain, sentence, short, visible
from app.workbench import ledger
from app.workbench.compare import asking, work
from app.workbench.compare.lens import PLAIN
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    from tracing import TraceResult

WITHOUT = later("Without the edits the largest effect, {effect}, is at {token}, layer {layer}")
WITH = later("with the edits the largest effect, {effect}, is at {token}, layer {layer}")
ABOUT = {"own": later("what each model says"), "true": later("the true answer"), "new": later("the new answer")}


def draw(form: Form, runner: Runner, trace: Job | None) -> list[Waiting]:
    """Draw the tab."""
    st.caption(
        say(
            "Where did the fact go? The trace of the map above is run on the unedited and on "
            "the edited model, with the "
            "same noise, and subtracted."
        )
    )
    about = st.segmented_control(
        say("Traced is"),
        list(ABOUT),
        format_func=lambda code: said(ABOUT[code]),
        key="difference_about",
        default="own",
        required=True,
        persist_state="session",
    )
    traced: TraceAsk = session().trace_ask or form.trace_ask()
    ask = DifferenceAsk(traced, form.new.strip(), ledger.active(), str(about))
    why = "" if ledger.active() else later("Apply an edit first.")
    found, waiting = asking.draw(
        runner,
        ask,
        work.difference,
        button=later("Trace both models"),
        label=later("Tracing both models"),
        why_not=why if trace is not None and trace.state == "done" else later("Run a trace and apply an edit first."),
    )
    if found is not None:
        for before, after in zip(found.before, found.after, strict=True):
            _show(before, after, several=len(found.before) > 1)
    return waiting


def _show(before: TraceResult, after: TraceResult, *, several: bool) -> None:
    from app.shared.plots import EffectMap, effect_maps
    from tracing.plots.labels import token_labels
    from tracing.plots.paper import comparable, difference

    before, after = before.own_words(), after.own_words()
    try:
        comparable(before, after)
    except ValueError as error:
        st.warning(plain(said(sentence(error))), icon=":material/block:")
        return
    change, uncertain = difference(before, after)
    names = token_labels(before)
    titles = (
        say("before: p({answer})", answer=before.answer.strip()),
        say("after: p({answer})", answer=after.answer.strip()),
        say("after − before"),
    )
    grids = (
        (before.indirect_effect, before.uncertain()),
        (after.indirect_effect, after.uncertain()),
        (change, uncertain),
    )
    figures = effect_maps(
        [
            EffectMap(
                names if index == 0 else [""] * len(names),
                grid.tolist(),
                _hover(names, grid),
                before.config.site,
                title,
                marked,
                before.config.window,
            )
            for index, (title, (grid, marked)) in enumerate(zip(titles, grids, strict=True))
        ],
        dark=st.context.theme.type == "dark",
    )
    site = before.config.site
    if several:
        st.markdown(f"**{said(SITE_NAMES[site].short)}**")
    for column, figure, title in zip(st.columns([1.25, 1, 1], gap="xxsmall"), figures, titles, strict=True):
        with column:
            st.plotly_chart(
                figure,
                key=f"difference_{site}_{titles.index(title)}",
                config=PLAIN,
                alt=say("Indirect effects {title}", title=title),
            )
    st.caption(plain(told(before, after)))
    if not several:
        export.difference_buttons(before, after)


def _hover(names: list[str], grid: object) -> list[list[str]]:
    return [
        [
            say("{name}, layer {layer}: {value}", name=name, layer=layer, value=short(float(value)))
            for layer, value in enumerate(row)
        ]
        for name, row in zip(names, grid, strict=True)  # type: ignore[call-overload]
    ]


def told(before: TraceResult, after: TraceResult) -> str:
    """Both maps in a sentence: where each is strongest before the last token."""
    words = [
        name.format(effect=short(cell.effect), token=visible(cell.token), layer=cell.layer)
        for name, cell in ((say(WITHOUT), before.largest()), (say(WITH), after.largest()))
    ]
    return say("; ").join(words) + say(".")
