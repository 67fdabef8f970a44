"""One experiment: how far it is, stop and resume, what it found."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from app.batch import sweeps, work
from app.batch.leaderboard import Board
from app.batch.results import Results, packed, table
from app.batch.sweeps import Experiment, Standing
from app.server.jobs import Job, Runner, job_key
from app.session import state
from app.session.session import session
from app.shared import averages
from app.shared.waiting import Waiting
from app.shared.wording import duration, plain
from experiments.ledger.schema import LedgerError
from metrics.definitions import PROMPTED

LOOK_SECONDS = 2.0
"""Between two looks at a ledger."""


def draw(runner: Runner, one: Experiment) -> list[Waiting]:
    """All of it; what the page waits for."""
    try:
        now = sweeps.standing(one)
    except (LedgerError, OSError) as error:
        st.error(plain(f"{str(error)[:1].upper()}{str(error)[1:]}."), icon=":material/error:")
        return []
    st.header(plain(one.name), anchor=False)
    _progress(one, now)
    _buttons(one, now)
    _notices(one, now)
    return _results(runner, one, now) if now.done else []


def words(now: Standing) -> str:
    """How far it is, in a line."""
    parts = [f"{now.state.capitalize()}: {now.done} of {now.total} cells done"]
    if now.failed:
        parts.append(f"{now.failed} failed")
    if now.rate:
        parts.append(f"{now.rate:.2g} cells a second" if now.rate >= 1 else f"{60 * now.rate:.2g} cells a minute")
    if now.seconds_left is not None:
        parts.append(f"about {duration(now.seconds_left)} left")
    return ", ".join(parts)


def _progress(one: Experiment, drawn: Standing) -> None:
    """The bar.  While it moves only it is drawn anew: the experiment is another process, and the page is free."""

    @st.fragment(run_every=LOOK_SECONDS if drawn.live else None)
    def bar() -> None:
        try:
            now = sweeps.standing(one) if drawn.live else drawn
        except (LedgerError, OSError):
            st.rerun()  # the page says what is wrong
        st.progress(min(1.0, (now.done + now.failed) / max(now.total, 1)), text=plain(words(now)))
        if now.state != drawn.state or (drawn.done == 0 and now.done > 0):
            st.rerun()

    bar()


def _buttons(one: Experiment, now: Standing) -> None:
    """What can be done now."""
    if not (now.live or now.left or now.failed):
        return
    with st.container(horizontal=True, vertical_alignment="center" if now.live else "bottom"):
        if now.live:
            st.button("Stop", key="experiment_stop", icon=":material/stop_circle:", on_click=_stop, args=(one,))
            st.caption("It goes on when this page is closed.")
            return
        cores = os.cpu_count() or 1
        workers = st.number_input(
            "Workers", 1, cores, max(1, cores // 2), key="experiment_workers", width=140, persist_state="session",
            help="Processes that compute cells at the same time, with a model each.",
        )  # fmt: skip
        resume, retry = (("resume", "Resume", ":material/play_arrow:"), ("retry", "Try the failed ones again",
                         ":material/refresh:"))  # fmt: skip
        for command, label, icon in ([resume] if now.left else []) + ([retry] if now.failed else []):
            st.button(
                label, key=f"experiment_{command}", icon=icon, on_click=_launch, args=(one, command, int(workers))
            )


def _stop(one: Experiment) -> None:
    """Callback."""
    if not sweeps.stop(one):
        st.toast("It is computed on another machine; stop it there.", icon=":material/info:")


def _launch(one: Experiment, command: sweeps.Command, workers: int) -> None:
    """Callback."""
    try:
        sweeps.launch(one, command, workers)
    except (LedgerError, OSError) as error:
        st.toast(plain(str(error)), icon=":material/error:")


def _notices(one: Experiment, now: Standing) -> None:
    if now.last_words:
        st.error(plain(f"It ended early: {now.last_words}"), icon=":material/error:")
    if now.failed:
        import pandas as pd

        with st.expander(f"{now.failed} failed cells"):
            st.dataframe(
                pd.DataFrame(sweeps.failures(one), dtype=object),
                hide_index=True,
                key="experiment_failures",
                alt="Cells that failed, with the reason",
                column_config={"reason": st.column_config.TextColumn(width="large")},
            )


def _results(runner: Runner, one: Experiment, now: Standing) -> list[Waiting]:
    if now.live:
        asked = session().results_wanted
        st.button("Results so far", key="experiment_look", icon=":material/visibility:", on_click=_want,
                  args=(one, now))  # fmt: skip
        if asked is None or asked[0] != one.name:
            return []
        key = asked[1]
    else:
        key = _key(one, now)
    job = state.job_for(runner, key, "Reading the results", work.results(one), "quick")
    if job.live:
        return [Waiting(job, st.empty())]
    if job.state == "failed":
        st.error(plain(job.error), icon=":material/error:")
    elif job.state == "done":
        _found(job, one)
    return []


def _key(one: Experiment, now: Standing) -> str:
    files = sorted(path.name for path in (one.folder / one.run).glob("*"))
    return job_key("results", [str(one.folder), one.run, now.done, now.failed, files])


def _want(one: Experiment, now: Standing) -> None:
    """Callback: what is finished at this moment."""
    session().results_wanted = (one.name, _key(one, now))


def _found(job: Job, one: Experiment) -> None:
    found: Results = job.result
    if found.maps:
        _maps(job.key, found)
    for board in found.boards:
        _board(job.key, board)
    if found.pictures:
        with st.expander("Figures for print"):
            for path in found.pictures:
                st.image(str(path), caption=path.name)
    _downloads(one, found)


def _maps(key: str, found: Results) -> None:
    st.markdown("**Averaged maps**")
    unknown = f", {found.n_unknown} passed over because the model does not know them" if found.n_unknown else ""
    st.caption(plain(f"{averages.facts(found.n_facts, found.total)}{unknown}."))
    averages.draw(key, found.maps)


def _board(key: str, board: Board) -> None:
    import pandas as pd

    st.markdown(f"**Leaderboard, protocol {plain(board.protocol)}**")
    columns = [name for name in PROMPTED if any(name in row for row in board.rows)]
    st.dataframe(
        pd.DataFrame(list(board.rows)),
        hide_index=True,
        key=f"board_{key}_{board.protocol}",
        alt=f"Methods under protocol {board.protocol}",
        column_config={name: st.column_config.NumberColumn(name.capitalize(), format="%.1f %%") for name in columns},
    )
    named = " and ".join(board.missing)
    missing = f" Of {named} it has no number here: it asks for none, or the facts have no prompts." if named else ""
    st.caption(
        f"Means over the n = {board.n_facts} facts that every method has edited, ordered by reliability, then the "
        f"others. A click on a heading orders by it.{missing}"
    )
    with st.expander(f"Before, change, interval and n under {plain(board.protocol)}"):
        st.dataframe(
            pd.DataFrame(list(board.details), dtype=object),
            hide_index=True,
            key=f"details_{key}_{board.protocol}",
            alt=f"Every headline number under protocol {board.protocol}",
        )


def _downloads(one: Experiment, found: Results) -> None:
    tables = [("Cells", "cells", "csv"), ("Cells", "cells", "parquet")]
    if found.boards:
        tables += [("Scores", "scores", "csv"), ("Scores", "scores", "parquet")]
    with st.container(horizontal=True):
        for label, what, kind in tables:
            st.download_button(
                f"{label} ({'CSV' if kind == 'csv' else 'Parquet'})",
                lambda what=what, kind=kind: table(one, what, kind),
                f"{Path(one.run).name}-{what}.{kind}",
                key=f"experiment_{what}_{kind}",
                icon=":material/download:",
                on_click="ignore",
            )
        if found.files:
            st.download_button(
                "All files (zip)",
                lambda: packed(found.files),
                f"{Path(one.run).name}.zip",
                "application/zip",
                key="experiment_files",
                icon=":material/folder_zip:",
                on_click="ignore",
            )
