"""One experiment: how far it is, stop and resume, what it found."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import streamlit as st

from app.batch import sweeps, work
from app.batch.choose_facts import local
from app.batch.leaderboard import Board
from app.batch.results import Results, packed, table
from app.batch.sweeps import Experiment, Standing
from app.language.say import ENGLISH, current, later, said, say
from app.server.job import Job, job_key
from app.server.jobs import Runner
from app.session import state
from app.session.reader import reader
from app.session.session import session
from app.shared import averages
from app.shared.tables import headings
from app.shared.waiting import Waiting
from app.shared.wording import Cells, duration, plain, sentence
from experiments.ledger.schema import LedgerError
from metrics.definitions import METRICS, PROMPTED

LOOK_SECONDS = 2.0
"""Between two reads of a ledger."""


def draw(runner: Runner, experiment: Experiment) -> list[Waiting]:
    """Draw the experiment; the jobs that the page waits for."""
    try:
        now = sweeps.standing(experiment)
    except (LedgerError, OSError) as error:
        st.error(plain(said(sentence(error))), icon=":material/error:")
        return []
    st.header(plain(experiment.name), anchor=False)
    _progress(experiment, now)
    _buttons(experiment, now)
    _notices(experiment, now)
    return _results(runner, experiment, now) if now.done else []


def words(now: Standing) -> str:
    """How far an experiment is, in one line."""
    state_now = said(now.state)
    parts = [
        say(
            "{state}: {done} of {total} cells done",
            state=state_now[:1].upper() + state_now[1:],
            done=now.done,
            total=now.total,
        )
    ]
    if now.failed:
        parts.append(say("{n} failed", n=now.failed))
    if now.rate:
        parts.append(
            say("{rate:.2g} cells a second", rate=now.rate)
            if now.rate >= 1
            else say("{rate:.2g} cells a minute", rate=60 * now.rate)
        )
    if now.seconds_left is not None:
        parts.append(say("about {seconds_left} left", seconds_left=duration(now.seconds_left)))
    return say(", ").join(parts)


def _progress(experiment: Experiment, drawn: Standing) -> None:
    """The bar.  While it moves, only the bar is drawn again: the experiment is another process."""

    @st.fragment(run_every=LOOK_SECONDS if drawn.live else None)
    def bar() -> None:
        try:
            now = sweeps.standing(experiment) if drawn.live else drawn
        except (LedgerError, OSError):
            st.rerun()  # the next run of the page says what is wrong
        st.progress(min(1.0, (now.done + now.failed) / max(now.total, 1)), text=plain(words(now)))
        if now.state != drawn.state or (drawn.done == 0 and now.done > 0):
            st.rerun()

    bar()


def _buttons(experiment: Experiment, now: Standing) -> None:
    """Draw the buttons that apply now."""
    if not (now.live or now.left or now.failed):
        return
    if not local() and sweeps.owner_of(experiment) != reader():
        st.caption(say("Only the reader who started it can stop or resume it here."))
        return
    with st.container(horizontal=True, vertical_alignment="center" if now.live else "bottom"):
        if now.live:
            st.button(
                say("Stop"), key="experiment_stop", icon=":material/stop_circle:", on_click=_stop, args=(experiment,)
            )
            st.caption(say("It continues when you close this page."))
            return
        cores = os.cpu_count() or 1
        workers = st.number_input(
            say("Workers"), 1, cores, max(1, cores // 2), key="experiment_workers", width=140, persist_state="session",
            help=say("Processes that compute cells at the same time; each loads the model."),
        )  # fmt: skip
        resume, retry = (("resume", say("Resume"), ":material/play_arrow:"), ("retry", say("Try the failed ones again"),
                         ":material/refresh:"))  # fmt: skip
        for command, label, icon in ([resume] if now.left else []) + ([retry] if now.failed else []):
            st.button(
                label,
                key=f"experiment_{command}",
                icon=icon,
                on_click=_launch,
                args=(experiment, command, int(workers)),
            )


def _stop(experiment: Experiment) -> None:
    """Callback."""
    if not sweeps.stop(experiment):
        st.toast(say("It runs on another machine; stop it there."), icon=":material/info:")


def _launch(experiment: Experiment, command: sweeps.Command, workers: int) -> None:
    """Callback."""
    try:
        sweeps.launch(experiment, command, workers)
    except (ValueError, OSError) as error:
        st.toast(plain(said(sentence(error))), icon=":material/error:")


def _notices(experiment: Experiment, now: Standing) -> None:
    if now.last_words:
        st.error(plain(say("It ended early: {last_words}", last_words=said(now.last_words))), icon=":material/error:")
    if now.failed:
        import pandas as pd

        failures = [failure | {"reason": said(failure["reason"])} for failure in sweeps.failures(experiment)]
        with st.expander(say("{failed} failed cells", failed=now.failed)):
            st.dataframe(
                pd.DataFrame(failures, dtype=object),
                hide_index=True,
                key="experiment_failures",
                alt=say("Cells that failed, with the reason"),
                column_config=headings(
                    ("cell", "state"), {"reason": st.column_config.TextColumn(said("reason"), width="large")}
                ),
            )


def _results(runner: Runner, experiment: Experiment, now: Standing) -> list[Waiting]:
    if now.live:
        wanted = session().results_wanted
        st.button(say("Results so far"), key="experiment_look", icon=":material/visibility:", on_click=_want,
                  args=(experiment, now))  # fmt: skip
        if wanted is None or wanted[0] != experiment.name:
            return []
        key = wanted[1]
    else:
        key = _key(experiment, now)
    job = state.job_for(runner, key, later("Reading the results"), partial(work.results, experiment), "quick")
    if job.live:
        return [Waiting(job, st.empty())]
    if job.state == "failed":
        st.error(plain(said(job.error)), icon=":material/error:")
    elif job.state == "done":
        _found(job, experiment)
    return []


def _key(experiment: Experiment, now: Standing) -> str:
    files = sorted(path.name for path in (experiment.folder / experiment.run).glob("*"))
    return job_key("results", [str(experiment.folder), experiment.run, now.done, now.failed, files])


def _want(experiment: Experiment, now: Standing) -> None:
    """Callback: read the results of the cells finished by now."""
    session().results_wanted = (experiment.name, _key(experiment, now))


def _found(job: Job, experiment: Experiment) -> None:
    results: Results = job.result
    if results.maps:
        _maps(job.key, results)
    for board in results.boards:
        _board(job.key, board)
    if results.pictures:
        with st.expander(say("Figures for print")):
            for path in results.pictures:
                st.image(str(path), caption=path.name)
    _downloads(experiment, results)


def _maps(key: str, results: Results) -> None:
    st.markdown(say("**Averaged maps**"))
    unknown = (
        say(", {n_unknown} skipped because the model does not know them", n_unknown=results.n_unknown)
        if results.n_unknown
        else ""
    )
    st.caption(plain(f"{averages.facts(results.n_facts, results.total)}{unknown}."))
    averages.draw(key, results.maps)


def _board(key: str, board: Board) -> None:
    import pandas as pd

    st.markdown(say("**Leaderboard, protocol {protocol}**", protocol=plain(board.protocol)))
    columns = [name for name in PROMPTED if any(name in row for row in board.rows)]
    st.dataframe(
        pd.DataFrame(list(board.rows)),
        hide_index=True,
        key=f"board_{key}_{board.protocol}",
        alt=say("Methods under protocol {protocol}", protocol=board.protocol),
        column_config=headings(
            ("method", "layer"),
            {name: st.column_config.NumberColumn(said(name.capitalize()), format="%.1f %%") for name in columns},
        ),
    )
    named = say(" and ").join(said(METRICS[name].label) if current() != ENGLISH else name for name in board.missing)
    missing = (
        say(" No {named}: this protocol does not measure it, or the facts have no prompts for it.", named=named)
        if named
        else ""
    )
    fewer = {row["metric"]: row["facts"] for row in board.details if int(row["facts"]) < board.n_facts}
    st.caption(
        say(
            "Means over the n = {n_facts} facts that every method has edited, sorted by reliability, "
            "then by the others. Click a heading to sort by it.{missing}",
            n_facts=board.n_facts,
            missing=missing,
        )
        + "".join(
            say(" {metric}: over the {n} of them that have such prompts.", metric=said(metric), n=n)
            for metric, n in fewer.items()
        )
    )
    with st.expander(say("Before, change, interval and n under {protocol}", protocol=plain(board.protocol))):
        st.dataframe(
            pd.DataFrame([_translated(row) for row in board.details], dtype=object),
            hide_index=True,
            key=f"details_{key}_{board.protocol}",
            alt=say("Every headline number under protocol {protocol}", protocol=board.protocol),
            column_config=headings(board.details[0] if board.details else ()),
        )


def _translated(row: Cells) -> Cells:
    """A row of a leaderboard's details, which a worker made in English."""
    interval = row["95 % interval"].replace(" to ", say(" to "))
    return row | {"metric": said(row["metric"]), "95 % interval": interval}


def _downloads(experiment: Experiment, results: Results) -> None:
    cells, scores = say("Cells"), say("Scores")
    tables = [(cells, "cells", "csv"), (cells, "cells", "parquet")]
    if results.boards:
        tables += [(scores, "scores", "csv"), (scores, "scores", "parquet")]
    with st.container(horizontal=True):
        for label, what, kind in tables:
            st.download_button(
                f"{label} ({'CSV' if kind == 'csv' else 'Parquet'})",
                lambda what=what, kind=kind: table(experiment, what, kind),
                f"{Path(experiment.run).name}-{what}.{kind}",
                key=f"experiment_{what}_{kind}",
                icon=":material/download:",
                on_click="ignore",
            )
        if results.files:
            st.download_button(
                say("All files (zip)"),
                lambda: packed(results.files),
                f"{Path(experiment.run).name}.zip",
                "application/zip",
                key="experiment_files",
                icon=":material/folder_zip:",
                on_click="ignore",
            )
