"""1 · Locate: run the trace, read the map, pick a layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import streamlit as st

from app.server import cache
from app.server.jobs import Job, Runner
from app.server.pace import token_passes
from app.session import state
from app.session.asks import EditAsk
from app.session.form import Form
from app.session.session import session
from app.session.state import BOUND, KEEP
from app.shared import export, style
from app.shared.waiting import Waiting, cancel
from app.shared.wording import plain, probability, roughly, sentence, short, visible
from app.workbench import heat_map, layers_tab
from tracing.sites import LAYER_SITES, SITE_NAMES

if TYPE_CHECKING:
    from app.workflow import Located
    from tracing import TraceResult
    from tracing.suggestion import Cell

MAPS = {SITE_NAMES[site].code: SITE_NAMES[site].short for site in LAYER_SITES} | {"all": "All"}
"""By their code in links."""
MEASURE_NAMES: dict[str, str] = {
    "probability": "Probability",
    "log_probability": "Log-probability",
    "logit_difference": "Logit difference",
    "kl": "KL divergence",
    "rank": "Rank",
    "fraction_restored": "Fraction restored",
}
WEAK_TOTAL_EFFECT = 0.05


def controls(form_model_layers: int) -> dict[str, object]:
    """Draw the heading row: the site and the settings."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.header("1 · Locate", anchor=False, width="content")
        st.segmented_control(
            "What is restored",
            list(state.SITE_CODES),
            required=True,
            format_func=MAPS.__getitem__,
            key="site",
            label_visibility="collapsed",
            **KEEP,
        )
        with st.popover("Settings", icon=":material/tune:"):
            return {"site": st.session_state.site, **_settings(form_model_layers)}


def _settings(n_layers: int) -> dict[str, object]:
    noise = st.number_input(
        "Noise (× σ)", *state.NOISE_RANGE, step=0.5, key=state.key_of("noise"),
        help="Added to the subject’s embeddings; σ is their standard deviation over many subjects. ROME uses 3.",
        **KEEP,
    )  # fmt: skip
    samples = st.number_input(
        "Noise samples", *state.SAMPLES_RANGE, step=1, key=state.key_of("samples"),
        help="Each cell is the mean over this many draws. More draws, narrower intervals.", **KEEP,
    )  # fmt: skip
    window = st.number_input(
        "Window (layers)", 1, n_layers, step=1, key=state.key_of("window"),
        help="MLP and attention outputs are restored in this many neighbouring layers at once; states one at a time.",
        **KEEP,
    )  # fmt: skip
    seed = st.number_input(
        "Seed", *state.SEED_RANGE, step=1, key=state.key_of("seed"), help="The same seed draws the same noise.", **KEEP
    )
    against = st.text_input(
        "Other answer", "", state.ROOM, key="against", placeholder="none",
        help="With another answer the trace also measures the difference of the two answers’ logits.", **BOUND,
    )  # fmt: skip
    return {"noise": noise, "samples": samples, "window": window, "seed": seed, "against": against or ""}


def draw(form: Form, runner: Runner, trace: Job | None, ask: EditAsk | None) -> list[Waiting]:
    """The rest of the card: run or cancel, what was measured, the map and its table."""
    waiting: list[Waiting] = []
    live = trace is not None and trace.live
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if live and trace is not None:
            cancel(runner, trace, "cancel_trace")
        else:
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                _run_button(form, again=trace is not None and trace.state == "done")
                if trace is None or session().trace_ask != form.trace_ask():
                    st.caption(_expected(form), width="content")
        results = trace.result.results if trace is not None and trace.state == "done" else ()
        panel = st.container(width="content")
        problem = ""
        if results:
            results, problem = _by_measure(results)
        with panel:
            export.trace_panel(results)
    if problem:
        st.warning(plain(problem), icon=":material/report:")
    if trace is None:
        st.info(
            "Press **Run trace** (Ctrl + Enter): noise is added to the subject, then one state at a time is restored. "
            "The map shows which states bring the answer back.",
            icon=":material/lightbulb:",
        )
    elif live:
        waiting.append(Waiting(trace, st.empty()))
    elif trace.state == "cancelled":
        st.info("Cancelled. Nothing is shown of a trace that did not finish.", icon=":material/block:")
    elif trace.state == "failed":
        st.error(plain(trace.error), icon=":material/error:")
    else:
        waiting += _results(form, runner, trace, ask, results)
    return waiting


def _expected(form: Form) -> str:
    """How long the trace will take, from what this server has seen of the model."""
    look = session().look
    ask = form.trace_ask()
    pace = cache.paces().get(form.model.key, ask.sites)
    if form.problems or look is None or look[0] != form.model.key or pace is None:
        return "time not known yet"
    worth = token_passes(len(look[1].tokens), look[1].span[0], form.model.n_layers, ask.samples, len(ask.sites))
    return f"about {roughly(pace * worth)}"


def _run_button(form: Form, again: bool) -> None:
    stale = again and session().trace_ask != form.trace_ask()
    st.button(
        "Run again" if stale else "Run trace",
        key="run_trace",
        icon=":material/play_arrow:",
        type="secondary" if st.context.theme.type == "dark" else "primary",
        shortcut="Mod+Enter",
        disabled=bool(form.problems),
        help="First correct the field named above." if form.problems else None,
        on_click=state.press,
        args=("run",),
    )


def _by_measure(results: tuple[TraceResult, ...]) -> tuple[tuple[TraceResult, ...], str]:
    """Draw the choice of the measure; the traces by that measure, or why they cannot be shown by it.

    The suggestion stays with probability.
    """
    always = (results[0].measure, "fraction_restored")  # the latter is made of the probability
    taken = [name for name in MEASURE_NAMES if name in always or name in results[0].others]
    measure = st.selectbox(
        "Measure",
        taken,
        format_func=MEASURE_NAMES.__getitem__,
        key="measure",
        label_visibility="collapsed",
        width=190,
        persist_state="session",
        help="What the map shows of the answer. All of them come from the same runs. For the logit difference name the "
        "other answer in Settings.",
    )
    try:
        return tuple(result.by(measure) for result in results), ""
    except ValueError as error:
        return results, sentence(error)


def _results(
    form: Form, runner: Runner, trace: Job, ask: EditAsk | None, shown: tuple[TraceResult, ...]
) -> list[Waiting]:
    located: Located = trace.result
    if session().trace_ask != form.trace_ask():
        st.warning(
            "The inputs have changed since this trace; the map below is for the old ones.", icon=":material/history:"
        )
    main = next(result for result in shown if result.config.site == located.main.config.site)
    _summary(main)
    _said(located)
    if 0 < located.main.total_effect < WEAK_TOTAL_EFFECT:
        st.warning(
            "The noise hardly changes the answer, so there is little to restore: raise the noise in Settings.",
            icon=":material/volume_up:",
        )
    map_tab, table, layers = st.tabs(["Heat map", "Table", "Every layer"])
    highest = max(float(abs(result.indirect_effect).max()) for result in shown)
    with map_tab:
        for result in shown:
            _site_heading(result, shown)
            heat_map.draw(trace.key, result, highest)
    with table:
        for result in shown:
            _site_heading(result, shown)
            heat_map.table(trace.key, result)
    with layers:
        return layers_tab.draw(runner, ask, located)


def _summary(result: TraceResult) -> None:
    corrupted = float(result.corrupted.mean())
    plain_measure = result.measure == "probability"
    number, name = (probability, "p") if plain_measure else (short, MEASURE_NAMES[result.measure])
    whose = "its answer " if result.own_answer else ""
    last = result.last_subject()
    items = [
        (f"{name} clean", number(float(result.clean)), f"of {whose}“{result.answer.strip()}”"),
        (f"{name} corrupted", number(corrupted), f"noise {result.config.noise:g} σ = {result.noise_std:.3g}"),
        ("Total effect", short(result.total_effect), f"n = {result.config.samples} samples"),
        ("Largest effect", *_cell(result.largest())),
    ]
    if last is not None:
        items.append(("Last subject token", *_cell(last)))
    style.numbers(items)


def _cell(cell: Cell) -> tuple[str, str]:
    """An effect with its place and interval, as text."""
    interval = "" if math.isnan(cell.low) else f", 95 % CI {short(cell.low)} to {short(cell.high)}"
    return short(cell.effect), f"layer {cell.layer}, {visible(cell.token)}{interval}"


def _said(located: Located) -> None:
    """Draw the suggested layer and whether the map shows the early site, by the probability of the answer."""
    from tracing.suggestion import early_site

    st.caption(
        plain(located.suggestion().reason),
        help="The largest effect is taken over all positions before the last token, where a late state restores the "
        "answer trivially. Its interval is corrected for the number of cells it is the largest of.",
    )
    if site := early_site(located.main):
        st.caption(plain(site))


def _site_heading(result: TraceResult, results: tuple[TraceResult, ...]) -> None:
    if len(results) > 1:
        st.markdown(f"**{SITE_NAMES[result.config.site].short}**")
