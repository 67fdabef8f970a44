"""The runs of this session: a table, one run in detail, two of them side by side, files in and out."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.language.say import later, said, say
from app.runs import average_runs, two_runs
from app.runs.files import LARGEST, file_name, open_file, zipped
from app.server.job import job_key
from app.server.jobs import Runner
from app.session import runs as session_runs
from app.session.run import SITES, EditRun, Run, TraceRun
from app.session.session import session
from app.shared import averages, export, style
from app.shared.tables import headings
from app.shared.waiting import Waiting
from app.shared.wording import Cells, plain, short, visible
from metrics.definitions import METRICS

KINDS = {"all": later("All"), "trace": later("Traces"), "edit": later("Edits")}


def draw(runner: Runner) -> list[Waiting]:
    """Draw the list; the jobs of the Workbench that are still running."""
    runs = session_runs.all_runs()
    waiting = [Waiting(job, st.empty()) for job in session_runs.live(runner)]
    words, kind = _controls(runs)
    if not runs:
        st.info(
            say(
                "Nothing here yet. What you trace and edit on the Workbench is listed here, and saved runs can be "
                "opened."
            ),
            icon=":material/lightbulb:",
        )
        st.page_link("workbench/page.py", label=say("To the Workbench"), icon=":material/biotech:")
        return waiting
    shown = two_runs.matching(runs, words, kind)
    # Between the buttons and the table, whose own toolbar would lie over the buttons.
    st.caption(
        say(
            "{shown} of {runs} runs. Tick one to see all its numbers, two to compare them, more "
            "traces to see their mean. They are kept while the server holds this session; save what you want to "
            "keep longer.",
            shown=len(shown),
            runs=len(runs),
        )
    )
    chosen = _table(shown, words, kind)
    if chosen:
        _files(chosen)
    if len(chosen) == 1:
        _one(chosen[0])
    elif len(chosen) == 2:
        _two(*chosen)
    elif chosen:
        _many(chosen)
    return waiting


def _controls(runs: Sequence[Run]) -> tuple[str, str]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            say("Filter"),
            key="runs_words",
            placeholder=say("words of a prompt, a method, a model"),
            persist_state="session",
        )
        kind = st.segmented_control(
            say("Kind"),
            list(KINDS),
            default="all",
            required=True,
            format_func=lambda kind: said(KINDS[kind]),
            key="runs_kind",
            label_visibility="collapsed",
            persist_state="session",
        )
        with st.popover(say("Open"), icon=":material/folder_open:"):
            _open()
        st.download_button(
            say("All (zip)"),
            lambda: zipped(list(runs)),
            "runs.zip",
            "application/zip",
            key="runs_zip",
            icon=":material/download:",
            on_click="ignore",
            disabled=not runs,
        )
    return words or "", kind or "all"


def _open() -> None:
    files = st.file_uploader(
        say("Runs to open"),
        ["json"],
        accept_multiple_files=True,
        key="runs_files",
        max_upload_size=LARGEST // 2**20,
        help=say("JSON from Export or Report of the Workbench."),
    )
    st.button(say("Open them"), key="runs_open", disabled=not files, on_click=_take_in)
    for problem in session().runs_problems:
        st.error(plain(said(problem)), icon=":material/error:")


def _take_in() -> None:
    """Callback: open the files in the field as runs."""
    told = (open_file(file.name, file.getvalue()) for file in st.session_state.runs_files)
    session().runs_problems = [problem for problem in told if problem]


def _table(runs: Sequence[Run], words: str, kind: str) -> list[Run]:
    import pandas as pd

    # Rows are selected by number, so another list needs another key.
    name = job_key("runs", [words, kind, [run.key for run in runs]])
    picked = st.dataframe(
        pd.DataFrame([two_runs.translated(row) for row in two_runs.overview(runs)], dtype=object),
        key=name,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        alt=say("Runs of this session"),
        height="auto",
        column_config=headings(
            two_runs.overview(runs[:1])[0] if runs else (),
            {
                "prompt": st.column_config.TextColumn(said("prompt"), width=300),
                "model": st.column_config.TextColumn(said("model"), width=150),
                "change": st.column_config.TextColumn(
                    said("change"), help=say("The answer that was traced, or what an edit rewrites.")
                ),
                "how": st.column_config.TextColumn(said("how"), help=say("The states restored, or the method.")),
                "largest effect": st.column_config.TextColumn(
                    said("largest effect"), width=150, help=say("Before the last token.")
                ),
            },
        ),
    )
    return [runs[row] for row in picked.selection["rows"] if row < len(runs)]


def _files(chosen: list[Run]) -> None:
    with st.container(horizontal=True):
        for index, run in enumerate(chosen if len(chosen) <= 2 else []):
            st.download_button(
                say("Save JSON") if len(chosen) == 1 else say("Save left") if index == 0 else say("Save right"),
                run.text.encode("utf-8", "surrogatepass"),
                file_name(run),
                "application/json",
                key=f"save_{run.key}",
                icon=":material/save:",
                on_click="ignore",
            )
        st.button(
            say("Remove from the list"),
            key="runs_forget",
            icon=":material/close:",
            on_click=session_runs.forget,
            args=([run.key for run in chosen],),
        )


def _one(run: Run) -> None:
    with st.container(border=True):
        st.header(plain(run.title), anchor=False)
        if isinstance(run, TraceRun):
            _numbers(run)
            _maps([run])
        else:
            st.caption(
                plain(
                    say(
                        "{model} ({revision}), protocol {protocol}, seed {seed}",
                        model=run.model,
                        revision=run.revision[:12],
                        protocol=run.protocol,
                        seed=run.seed,
                    )
                )
            )
            rows = two_runs.score_rows(run)
            _rows(rows[: len(METRICS)], f"scores_{run.key}", say("Five numbers of {title}", title=run.title))
            with st.expander(say("All scores")):
                _rows(rows, f"all_scores_{run.key}", say("Every score of {title}", title=run.title))


def _two(left: Run, right: Run) -> None:
    with st.container(border=True, key="runs_compared"):
        st.header(say("Side by side"), anchor=False)
        refusal = said(two_runs.why_not(left, right))
        if refusal:
            st.warning(plain(refusal), icon=":material/block:")
            return
        differing = two_runs.what_differs(left, right)
        if isinstance(left, TraceRun) and isinstance(right, TraceRun):
            _maps([left, right])
            _rows(
                two_runs.trace_rows(left, right), "compared_traces", say("Numbers of both traces and their differences")
            )
        elif isinstance(left, EditRun) and isinstance(right, EditRun):
            for column, run in zip(st.columns(2), (left, right), strict=True):
                column.markdown(f"**{plain(run.title)}**")
            _rows(two_runs.pair_rows(left, right), "compared_edits", say("Five numbers of both edits"))
            st.caption(say("Values with 95 % intervals; before is the unedited model; the difference is right − left."))
        if differing:
            st.markdown(say("**Their settings differ:**"))
            rows = [{"setting": said(name), "left": one, "right": other} for name, one, other in differing]
            _rows(rows, "compared_settings", say("Settings that differ"))
        else:
            st.caption(say("Both used the same settings."))


def _many(chosen: Sequence[Run]) -> None:
    """Draw the mean of three or more traces."""
    with st.container(border=True, key="runs_averaged"):
        st.header(say("On average"), anchor=False)
        refusal = said(average_runs.why_not(chosen))
        if refusal:
            st.warning(plain(refusal), icon=":material/block:")
            return
        mean = average_runs.average(chosen)
        measure = said(next(run.measure for run in chosen if isinstance(run, TraceRun)).replace("_", " "))
        key = job_key("average", sorted(run.key for run in chosen))
        words = averages.facts(mean.n_facts, (mean.ate, *mean.ate_ci()))
        st.caption(
            plain(
                say(
                    "{words}, {noise_source}. Traces of one prompt count as one fact. ",
                    words=words,
                    noise_source=said(mean.noise_source),
                )
            )
            + say("Hand-picked facts say little about others; the page Batch draws facts at random.")
        )
        maps = [averages.averaged_map(name, effects) for name, effects in mean.effects.items()]
        averages.draw(key, maps, say("Average indirect effect ({measure})", measure=measure))
        export.average_buttons(mean)


def _numbers(run: TraceRun) -> None:
    measure = said(run.measure.replace("_", " "))
    items = (
        (say("Clean"), short(run.clean), say("{measure} of “{answer}”", measure=measure, answer=run.answer.strip())),
        (say("Corrupted"), short(run.corrupted), say("noise {value} σ", value=run.settings.get("noise", "?"))),
        (say("Total effect"), short(run.total), say("n = {samples} samples", samples=run.samples)),
        (say("Largest effect"), *_cell(run, *run.largest)),
        (say("Last subject token"), *_cell(run, *run.peak)),
    )
    style.numbers(items)


def _cell(run: TraceRun, position: int, layer: int) -> tuple[str, str]:
    """An effect, and where it is.  A file holds no samples, so its interval is that of one cell."""
    low, high = run.low[position][layer], run.high[position][layer]
    interval = (
        "" if low != low else say(", 95 % CI of this cell alone {low} to {high}", low=short(low), high=short(high))
    )
    return short(run.effect[position][layer]), say(
        "layer {layer}, {token}{interval}", layer=layer, token=visible(run.tokens[position]), interval=interval
    )


def _maps(runs: Sequence[TraceRun]) -> None:
    """One map, or two next to each other on one colour scale."""
    from app.shared.plots import EffectMap, effect_maps

    maps = []
    for run in runs:
        labels = [
            visible(token) + ("*" if run.subject_span[0] <= index < run.subject_span[1] else "")
            for index, token in enumerate(run.tokens)
        ]
        hover = [
            [
                say("layer {layer}, token {label}: {value}", layer=layer, label=label, value=short(value))
                for layer, value in enumerate(row)
            ]
            for label, row in zip(labels, run.effect, strict=True)
        ]
        maps.append(
            EffectMap(
                labels,
                run.effect,
                hover,
                run.site,
                say("Indirect effect ({measure})", measure=said(run.measure.replace("_", " "))),
                window=run.window,
            )
        )
    figures = effect_maps(maps, dark=st.context.theme.type == "dark")
    columns = st.columns(len(runs)) if len(runs) > 1 else [st.container()]
    for column, run, figure in zip(columns, runs, figures, strict=True):
        with column:
            if len(runs) > 1:
                st.markdown(f"**{plain(run.title)}**")
            position, layer = run.largest
            st.plotly_chart(
                figure,
                key=f"saved_{run.key}_{len(runs)}",
                config={"displayModeBar": False, "doubleClick": False},
                alt=say(
                    "Effects of {site} in {title}; the largest before the last token, {effect}, is at "
                    "{token}, layer {layer}.",
                    site=said(SITES[run.site]),
                    title=run.title,
                    effect=short(run.effect[position][layer]),
                    token=visible(run.tokens[position]),
                    layer=layer,
                ),
            )


def _rows(rows: Sequence[Cells], key: str, alt: str) -> None:
    import pandas as pd

    st.dataframe(
        pd.DataFrame(rows, dtype=object),
        hide_index=True,
        key=key,
        alt=alt,
        height="content",
        column_config=headings(rows[0] if rows else ()),
    )
