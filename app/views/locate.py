"""1 · Locate: run the trace, read the map, pick a layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.jobs import Job, Runner
from app.state import KEEP, Form
from app.views import export
from app.views.waiting import Waiting
from app.wording import markup, plain, probability, short, visible

if TYPE_CHECKING:
    import pandas as pd

    from tracing import TraceResult

SITE_NAMES = {"state": "State", "mlp": "MLP", "attn": "Attention", "all": "All"}
SHOWN_AS = {"effect": "Effect", "probability": "Probability"}
WEAK_TOTAL_EFFECT = 0.05


def controls(form_model_layers: int) -> dict[str, object]:
    """The heading row: what is restored, and the settings."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("1 · Locate", anchor=False, width="content")
        # Not bound by Streamlit: a bound control would put the label, not the code, into the link.
        st.segmented_control(
            "What is restored",
            list(state.SITE_CODES),
            required=True,
            format_func=SITE_NAMES.__getitem__,
            key="site",
            label_visibility="collapsed",
            persist_state="session",
        )
        state.link("site", st.session_state.site, state.DEFAULT_SITE)
        with st.popover("Settings", icon=":material/tune:"):
            return {"site": st.session_state.site, **_settings(form_model_layers)}


def _settings(n_layers: int) -> dict[str, object]:
    noise = st.number_input(
        "Noise (× σ)", *state.NOISE_RANGE, state.DEFAULT_NOISE, 0.5, key="noise",
        help="Added to the subject’s embeddings; σ is their standard deviation over many subjects. ROME uses 3.",
        **KEEP,
    )  # fmt: skip
    samples = st.number_input(
        "Noise samples", *state.SAMPLES_RANGE, state.DEFAULT_SAMPLES, 1, key="samples",
        help="Each cell is the mean over this many draws. More draws, narrower intervals.", **KEEP,
    )  # fmt: skip
    window = st.number_input(
        "Window (layers)", 1, n_layers, state.default_window(n_layers), 1, key="window",
        help="MLP and attention outputs are restored in this many neighbouring layers at once; states one at a time.",
        **KEEP,
    )  # fmt: skip
    seed = st.number_input(
        "Seed", *state.SEED_RANGE, state.DEFAULT_SEED, 1, key="seed", help="The same seed draws the same noise.", **KEEP
    )
    return {"noise": noise, "samples": samples, "window": window, "seed": seed}


def draw(form: Form, runner: Runner, trace: Job | None) -> list[Waiting]:
    """The rest of the card: run or cancel, what was measured, the map and its table."""
    waiting: list[Waiting] = []
    live = trace is not None and trace.live
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if live and trace is not None:
            st.button(
                "Cancel",
                key="cancel_trace",
                icon=":material/stop_circle:",
                on_click=state.give_up,
                args=(runner, trace),
            )
        else:
            _run_button(form, again=trace is not None and trace.state == "done")
        results = trace.result if trace is not None and trace.state == "done" else None
        export.trace_panel(results)
    if trace is None:
        st.info(
            "Press **Run trace** (Ctrl + Enter): the subject is blurred with noise, then one state at a time is put "
            "back. The map shows which of them bring the answer back.",
            icon=":material/lightbulb:",
        )
    elif live:
        waiting.append(Waiting(trace, st.empty()))
    elif trace.state == "cancelled":
        st.info("Cancelled. Nothing is shown of a trace that did not finish.", icon=":material/block:")
    elif trace.state == "failed":
        st.error(plain(trace.error), icon=":material/error:")
    else:
        _results(form, trace)
    return waiting


def _run_button(form: Form, again: bool) -> None:
    stale = again and st.session_state.trace_ask != form.trace_ask()
    st.button(
        "Run again" if stale else "Run trace",
        key="run_trace",
        icon=":material/play_arrow:",
        type="secondary" if st.context.theme.type == "dark" else "primary",
        shortcut="Mod+Enter",
        disabled=bool(form.problems),
        help="First correct the field named above." if form.problems else None,
        on_click=state.start_trace,
        args=(form.trace_ask(),),
    )


def _results(form: Form, trace: Job) -> None:
    results: tuple[TraceResult, ...] = trace.result
    if st.session_state.trace_ask != form.trace_ask():
        st.warning(
            "Inputs changed since this trace; the map below belongs to the earlier ones.", icon=":material/history:"
        )
    main = suggested_from(results)
    position, layer = main.peak()
    state.suggest_layer(trace.key, layer)
    _summary(main, position, layer)
    if main.total_effect < WEAK_TOTAL_EFFECT:
        st.warning(
            "The noise hardly changes the answer, so there is nothing to restore: raise the noise in Settings.",
            icon=":material/volume_up:",
        )
    heat_map, table = st.tabs(["Heat map", "Table"])
    with heat_map:
        for result in results:
            _site_heading(result, results)
            _map(trace.key, result, results)
    with table:
        for result in results:
            _site_heading(result, results)
            _table(trace.key, result)


def suggested_from(results: tuple[TraceResult, ...]) -> TraceResult:
    """The trace the suggestion is read from: the MLP's where there are several, since an edit rewrites an MLP."""
    return next((result for result in results if result.config.site == "mlp_out"), results[0])


def _summary(result: TraceResult, position: int, layer: int) -> None:
    low, high = (float(bound[position, layer]) for bound in result.ci())
    effect = float(result.indirect_effect[position, layer])
    corrupted = float(result.corrupted.mean())
    interval = "" if math.isnan(low) else f", 95 % CI {short(low)} to {short(high)}"
    items = (
        ("p clean", probability(float(result.clean)), f"of “{result.answer.strip()}”"),
        ("p corrupted", probability(corrupted), f"noise {result.config.noise:g} σ = {result.noise_std:.3g}"),
        ("Total effect", short(result.total_effect), f"n = {result.config.samples} samples"),
        ("Largest effect", short(effect), f"layer {layer}, {visible(result.tokens[position])}{interval}"),
    )
    cells = "".join(
        f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd><small>{markup(note)}</small></div>"
        for name, value, note in items
    )
    st.html(f'{SUMMARY_STYLE}<dl class="numbers">{cells}</dl>')


SUMMARY_STYLE = """
<style>
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px 18px;
  margin: 4px 0 0; padding: 0 }
.numbers div { margin: 0; padding: 0 }
.numbers dt { padding: 0; margin: 0; font-size: 0.84rem; color: color-mix(in srgb, currentColor 78%, transparent) }
.numbers dd { margin: 0; font-size: 1.3rem; line-height: 1.35; font-variant-numeric: tabular-nums }
.numbers small { font-size: 0.8rem; color: color-mix(in srgb, currentColor 78%, transparent); overflow-wrap: anywhere }
</style>
"""


def _map(key: str, result: TraceResult, results: tuple[TraceResult, ...]) -> None:
    from tracing.plots import trace_heatmap

    name = f"map_{key}_{result.config.site}"
    dark = st.context.theme.type == "dark"
    top = max(float(abs(other.indirect_effect).max()) for other in results)
    figure = trace_heatmap(
        result, selected_layer=int(st.session_state.get("layer", 0)), dark=dark, scale="rome", zmax=top
    )
    # The bar lies above the map: beside it, it would leave a phone no room for the layers.
    words = figure.data[0].colorbar.title.text.replace("<br>", " ")
    bar = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "len": 0.6, "thickness": 9}
    bar |= {"xpad": 0, "ypad": 0}
    figure.data[0].colorbar.update(bar | {"title": {"text": words, "side": "top", "font": {"size": 12}}})
    ink = "#dfe6ec" if dark else "#2b333b"  # the theme's own grey is too faint for small print
    figure.update_layout(title=None, margin={"t": 4, "b": 64}, font_color=ink)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(tickfont_color=ink, title_font_color=ink, title_standoff=12)
    st.plotly_chart(
        figure,
        key=name,
        on_select=lambda: state.pick_from_map(name, result.n_layers),
        selection_mode="points",
        config={"displayModeBar": False, "doubleClick": False},
        alt=description(result),
    )


def description(result: TraceResult) -> str:
    """The map in one sentence, for those who cannot see it."""
    position, layer = result.peak()
    return (
        f"Causal trace of {len(result.tokens)} tokens by {result.n_layers} layers. At the last subject token the "
        f"strongest effect, {float(result.indirect_effect[position, layer]):.2f}, is at layer {layer}."
    )


def _site_heading(result: TraceResult, results: tuple[TraceResult, ...]) -> None:
    if len(results) > 1:
        code = next(code for code, site in state.SITES.items() if site == result.config.site)
        st.markdown(f"**{SITE_NAMES[code]}**")


def _table(key: str, result: TraceResult) -> None:
    name = f"table_{key}_{result.config.site}"
    st.dataframe(
        effect_table(result),
        key=name,
        hide_index=True,
        on_select=lambda: state.pick_from_table(name),
        selection_mode="single-cell",
        alt=f"Indirect effect by token and layer, {result.config.site}",
        height="content",
        column_config={
            "token": st.column_config.TextColumn(width=92, pinned=True),
            **{str(layer): st.column_config.NumberColumn(format="%.3f", width=52) for layer in range(result.n_layers)},
        },
    )
    st.caption("Mean indirect effect. The arrow keys move the cell; its column becomes the layer.")


def effect_table(result: TraceResult) -> pd.DataFrame:
    """One row per token, one column per layer, named by its number."""
    import pandas as pd

    from tracing.labels import token_labels

    effect = result.indirect_effect.round(4) + 0.0  # adding zero turns -0.0 into 0.0
    frame = pd.DataFrame(effect, columns=[str(layer) for layer in range(result.n_layers)])
    frame.insert(0, "token", token_labels(result))
    return frame
