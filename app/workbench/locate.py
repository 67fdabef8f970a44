"""1 · Locate: run the trace, read the map, pick a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.language.say import later, said, say
from app.server import cache
from app.server.job import Job
from app.server.jobs import Runner
from app.server.pace import token_passes
from app.session import state
from app.session.form import Form
from app.session.session import session
from app.session.state import BOUND, KEEP
from app.shared import export, style
from app.shared.waiting import Waiting, cancel
from app.shared.wording import plain, probability, roughly, sentence, short, signs, visible
from app.workbench import frame, heat_map
from tracing.sites import LAYER_SITES, SITE_NAMES

if TYPE_CHECKING:
    from app.workflow import Located
    from tracing import TraceResult
    from tracing.suggestion import Cell

MAPS = {SITE_NAMES[site].code: SITE_NAMES[site].short for site in LAYER_SITES} | {"all": later("All")}
"""By their code in links."""
MEASURE_NAMES: dict[str, str] = {
    "probability": later("Probability"),
    "log_probability": later("Log-probability"),
    "logit_difference": later("Logit difference"),
    "kl": later("KL divergence"),
    "rank": later("Rank"),
    "fraction_restored": later("Fraction restored"),
}
WEAK_TOTAL_EFFECT = 0.05


@dataclass(frozen=True)
class Row:
    """Places in the heading row, filled once the form has been read."""

    run: Any
    export: Any


def controls(n_layers: int) -> tuple[dict[str, object], Row]:
    """Draw the heading row: the site and the settings; the rest of it is drawn by `draw`."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.header(say("1 · Locate"), anchor=False, width="content")
        st.segmented_control(
            say("What is restored"),
            list(state.SITE_CODES),
            required=True,
            format_func=lambda code: said(MAPS[code]),
            key="site",
            label_visibility="collapsed",
            **KEEP,
        )
        st.space("stretch")
        row = Row(st.container(width="content"), st.container(width="content"))
        with st.popover(say("Settings"), icon=":material/tune:"):
            return {"site": st.session_state.site, **_settings(n_layers)}, row


def _settings(n_layers: int) -> dict[str, object]:
    noise = st.number_input(
        say("Noise (× σ)"),
        *state.NOISE_RANGE,
        step=0.5,
        key=state.key_of("noise"),
        help=say("Added to the subject’s embeddings; σ is their standard deviation over many subjects. ROME uses 3."),
        **KEEP,
    )
    samples = st.number_input(
        say("Noise samples"),
        *state.SAMPLES_RANGE,
        step=1,
        key=state.key_of("samples"),
        help=say("Each cell is the mean over this many draws. More draws, narrower intervals."),
        **KEEP,
    )
    window = st.number_input(
        say("Window (layers)"),
        1,
        n_layers,
        step=1,
        key=state.key_of("window"),
        help=say(
            "MLP and attention outputs are restored in this many neighbouring layers at once; states one at a time."
        ),
        **KEEP,
    )
    seed = st.number_input(
        say("Seed"),
        *state.SEED_RANGE,
        step=1,
        key=state.key_of("seed"),
        help=say("The same seed draws the same noise."),
        **KEEP,
    )
    against = st.text_input(
        say("Other answer"),
        "",
        state.ROOM,
        key="against",
        placeholder=say("none"),
        help=say("With another answer the trace also measures the difference of the two answers’ logits."),
        **BOUND,
    )
    return {"noise": noise, "samples": samples, "window": window, "seed": seed, "against": against or ""}


def draw(form: Form, runner: Runner, trace: Job | None, row: Row) -> list[Waiting]:
    """The rest of the card: run or cancel, what was measured, the map and its table."""
    live = trace is not None and trace.live
    with row.run:
        if live and trace is not None:
            cancel(runner, trace, "cancel_trace")
        else:
            _run_button(form, again=trace is not None and trace.state == "done")
    results = trace.result.results if trace is not None and trace.state == "done" else ()
    with row.export:
        panel = st.empty()
    if not results:
        with panel:
            export.trace_panel(())
    if trace is None or live:
        # Both stay where they are when the trace begins: what is left of an earlier drawing goes only with its end.
        above, map_place = st.container(), st.empty()
        early = None if trace is None else trace.early
        with map_place.container(key="first_sample" if early else "blank_map", gap="xxsmall"):
            if trace is not None and early is not None:
                _early(form, trace.key, early)
            else:
                _blank(form)
        if trace is None:
            with above:
                _before(form)
            return []
        place = above.empty()
        above.empty()  # in place of the time that a trace takes
        return [Waiting(trace, place, early)]
    if trace.state == "cancelled":
        st.info(say("Cancelled. Nothing is shown of a trace that did not finish."), icon=":material/block:")
    elif trace.state == "failed":
        st.error(plain(said(trace.error)), icon=":material/error:")
    else:
        with st.container(key="trace_results", gap="xsmall"):
            _results(form, trace, panel)
    return []


def _before(form: Form) -> None:
    """What the map will show, and how long it will take."""
    st.info(
        say(
            "Press **Run trace** (Ctrl + Enter): noise is added to the subject, then one state at a time is restored. "
            "The map shows which states bring the answer back."
        ),
        icon=":material/lightbulb:",
    )
    st.caption(_takes(form))


def _blank(form: Form) -> None:
    """The place of the map, once the prompt was read."""
    look = session().look
    if look is not None and look[0] == form.model.key and not form.problems:
        heat_map.blank(look[1], form.model.n_layers)


def _takes(form: Form) -> str:
    expected = _expected(form)
    return say("A trace takes {expected} on this computer.", expected=expected) if expected else ""


def _expected(form: Form) -> str:
    """How long the trace will take, from what this server has seen of the model; empty if that is nothing."""
    look = session().look
    ask = form.trace_ask()
    pace = cache.paces().get(form.model.key, ask.sites)
    if form.problems or look is None or look[0] != form.model.key or pace is None:
        return ""
    worth = token_passes(len(look[1].tokens), look[1].span[0], form.model.n_layers, ask.samples, len(ask.sites))
    return say("about {time}", time=roughly(pace * worth))


def _run_button(form: Form, again: bool) -> None:
    """Never disabled: the click or the keys may be what ends the correction of a field."""
    stale = again and session().trace_ask != form.trace_ask()
    st.button(
        say("Run again") if stale else say("Run trace"),
        key="run_trace",
        icon=":material/play_arrow:",
        type="secondary" if st.context.theme.type == "dark" else "primary",
        shortcut="Mod+Enter",
        help=say("First correct the field named above.") if form.problems else None,
        on_click=state.press,
        args=("run",),
    )


def _shown(results: tuple[TraceResult, ...]) -> tuple[tuple[TraceResult, ...], str]:
    """Draw the choice of the measure; the traces by that measure, or why they cannot be shown by it.

    The suggestion stays with probability.
    """
    always = (results[0].measure, "fraction_restored")  # the latter is made of the probability
    taken = [name for name in MEASURE_NAMES if name in always or name in results[0].others]
    with st.popover(say("View"), icon=":material/visibility:"):
        measure = st.selectbox(
            say("Measure"),
            taken,
            format_func=lambda name: said(MEASURE_NAMES[name]),
            key="measure",
            persist_state="session",
            help=say(
                "What the map shows of the answer. All of them come from the same runs. For the logit difference "
                "name the other answer in Settings."
            ),
        )
        st.radio(
            say("Cells whose 95 % interval includes 0"),
            list(heat_map.MARKS),
            key="marks",
            format_func=lambda code: said(heat_map.MARKS[code]),
            persist_state="session",
        )
    try:
        return tuple(result.by(measure) for result in results), ""
    except ValueError as error:
        return results, sentence(error)


def _results(form: Form, trace: Job, panel: Any) -> None:
    """The numbers of a finished trace, its map and its table."""
    located: Located = trace.result
    numbers = st.container()
    # The tabs stand in one row with the choice of what they show.
    with st.container(key="trace_tabs"):
        # drawn when it is opened: a shaded table takes as long as half of the page
        map_tab, table = st.tabs([say("Heat map"), say("Table")], on_change="rerun", key="trace_tab")
        with st.container(key="trace_view", width="content"):
            shown, problem = _shown(located.results)
    with panel:
        export.trace_panel(shown)
    with numbers, st.container(gap="xxsmall"):
        _above(form, located, shown, problem)
    with map_tab, st.container(gap="xxsmall"):
        highest = _maps(trace.key, shown)
    with table:
        for result in shown if table.open else ():
            if len(shown) > 1:
                st.markdown(f"**{said(SITE_NAMES[result.config.site].short)}**")
            heat_map.table(trace.key, result, highest)


def _maps(key: str, shown: tuple[TraceResult, ...]) -> float:
    """Draw the maps side by side, and their legend; the top of their scale."""
    from tracing.plots.labels import has_two_sides

    highest = max(1e-6, *(float(abs(result.indirect_effect).max()) for result in shown))
    two_sided = any(has_two_sides(result.indirect_effect) for result in shown)
    for column, result in zip(st.columns(_widths(len(shown)), gap="xxsmall"), shown, strict=True):
        with column:
            title = said(SITE_NAMES[result.config.site].short) if len(shown) > 1 else ""
            heat_map.draw(key, result, highest, two_sided=two_sided, title=title, labelled=result is shown[0])
    st.caption(plain(heat_map.legend(shown, two_sided)))
    return highest


def _early(form: Form, key: str, located: Located) -> None:
    """Draw what the first noise sample shows."""
    st.caption(
        say(
            "The first of {n} noise samples; the mean of all, with intervals, will stand here.",
            n=form.trace_ask().samples,
        )
    )
    _maps(f"first-{key}", located.results)


def _widths(n: int) -> list[float]:
    """Of maps side by side: the first one has the names of the tokens."""
    return [1.3, *[1.0] * (n - 1)] if n > 1 else [1.0]


def _above(form: Form, located: Located, shown: tuple[TraceResult, ...], problem: str) -> None:
    """What stands above the map."""
    stale = session().trace_ask != form.trace_ask()
    st.html(frame.STALE if stale else "<style></style>")
    if stale:
        st.warning(
            say(
                "The inputs have changed since this trace; the map below is for the old ones. {takes}",
                takes=_takes(form),
            ),
            icon=":material/history:",
        )
    if problem:
        st.warning(plain(said(problem)), icon=":material/report:")
    _summary(next(result for result in shown if result.config.site == located.main.config.site))
    _said(located)
    if located.main.clean < WEAK_TOTAL_EFFECT:
        st.warning(
            say(
                "The model gives this answer almost no probability, so there is nothing to restore: leave the true "
                "answer empty to trace the model’s own, or ask for a fact that it knows."
            ),
            icon=":material/help:",
        )
    elif 0 < located.main.total_effect < WEAK_TOTAL_EFFECT:
        st.warning(
            say("The noise hardly changes the answer, so there is little to restore: raise the noise in Settings."),
            icon=":material/volume_up:",
        )


def _summary(result: TraceResult) -> None:
    corrupted = float(result.corrupted.mean())
    plain_measure = result.measure == "probability"
    number, name = (probability, "p") if plain_measure else (short, said(MEASURE_NAMES[result.measure]))
    answer = (
        f"{name}({result.answer.strip()})"
        if plain_measure
        else say("{name} of {answer}", name=name, answer=result.answer.strip())
    )
    config = result.config
    style.line(
        [
            (
                answer,
                f"{number(float(result.clean))} → {number(corrupted)}",
                say("with noise ({noise:g} σ, n = {samples})", noise=config.noise, samples=config.samples),
            ),
            (say("total effect"), short(result.total_effect), ""),
            (say("largest"), *_cell(result.largest())),
        ]
    )


def _cell(cell: Cell) -> tuple[str, str]:
    """An effect with its place and interval, as text."""
    interval = (
        "" if math.isnan(cell.low) else say(" (95 % CI {low} to {high})", low=short(cell.low), high=short(cell.high))
    )
    return short(cell.effect), say(
        "at {token}, layer {layer}{interval}", token=visible(cell.token), layer=cell.layer, interval=interval
    )


def _said(located: Located) -> None:
    """Draw the suggested layer and whether the map shows the early site, by the probability of the answer."""
    from tracing.suggestion import early_site

    words = [said(located.suggestion().reason), said(early_site(located.main, located.silent))]
    st.caption(
        plain(signs(" ".join(filter(None, words)))),
        help=say(
            "The largest effect is taken over all positions before the last token, where a late state restores the "
            "answer trivially. Its interval is corrected for the number of cells it is the largest of."
        ),
    )
