"""The experiments of the folder: a table, and one of them."""

from __future__ import annotations

import datetime

import streamlit as st

from app.batch import show_experiment, sweeps
from app.batch.sweeps import Experiment
from app.classroom.names import has_page
from app.language.say import later, said, say
from app.server import limits
from app.server.jobs import Runner
from app.session.session import session
from app.shared.tables import headings
from app.shared.waiting import Waiting
from app.shared.wording import plain
from experiments.ledger.ledger import Ledger
from experiments.ledger.schema import LedgerError

MOST = 50
"""Rows of the table."""
WHAT = {"average": later("traces"), "trace": "traces", "edit": later("edits"), "protocols": "edits"}
"""Kinds of cells in the words of the page Batch."""
COLUMNS = ("name", "what", "model", "done", "failed", "state", "planned")


def draw(runner: Runner) -> list[Waiting]:
    """Draw all of it."""
    listed = sweeps.shown()
    if not listed:
        st.info(
            say("No experiment yet. Start one on the page Batch, or with `python -m experiments run`."),
            icon=":material/lightbulb:",
        )
        if has_page("batch"):
            st.page_link("batch/page.py", label=say("To Batch"), icon=":material/dataset:")
        _where()
        return []
    words = st.text_input(
        say("Filter experiments"),
        key="experiments_words",
        placeholder=say("words of a name or a state"),
        persist_state="session",
    )
    rows = [(experiment, _row(experiment)) for experiment in listed[:MOST]]
    wanted = (words or "").casefold().split()
    rows = [pair for pair in rows if all(word in " ".join(map(str, pair[1].values())).casefold() for word in wanted)]
    _table([row for _, row in rows])
    _where()
    names = [experiment.name for experiment, _ in rows]
    if not names:
        return []
    linked = st.query_params.get("experiment") or session().experiment
    chosen = st.selectbox(
        say("Look at"), names, names.index(linked) if linked in names else 0, key="experiment_chosen", on_change=_choose
    )
    with st.container(border=True, key="experiment_shown"):
        return show_experiment.draw(runner, next(experiment for experiment, _ in rows if experiment.name == chosen))


def _choose() -> None:
    """Callback: show the chosen experiment, also in the link and on the page Batch."""
    chosen = st.session_state.experiment_chosen
    session().experiment = st.query_params["experiment"] = chosen


def _row(experiment: Experiment) -> dict[str, object]:
    unknown: dict[str, object] = dict.fromkeys(COLUMNS, "") | {"name": experiment.name}
    if experiment.problem:
        return unknown | {"state": said(experiment.problem)}
    try:
        now = sweeps.standing(experiment)
        with Ledger(experiment.folder, create=False) as ledger:
            (model, made), kinds = ledger.planned()[experiment.run], ledger.kinds(experiment.run)
    except (LedgerError, OSError) as error:
        return unknown | {"state": said(str(error))}
    return {
        "name": experiment.name,
        "what": ", ".join(dict.fromkeys(said(WHAT.get(kind, kind)) for kind in kinds)),
        "model": model.rpartition("/")[2],
        "done": say("{done} of {total}", done=now.done, total=now.total),
        "failed": str(now.failed),
        "state": said(now.state),
        "planned": datetime.datetime.fromtimestamp(made).astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def _table(rows: list[dict[str, object]]) -> None:
    import pandas as pd

    st.dataframe(
        pd.DataFrame(rows, columns=list(COLUMNS), dtype=object),
        hide_index=True,
        key="experiments",
        alt=say("Experiments of the folder, with how far each is"),
        column_config=headings(COLUMNS),
    )


def _where() -> None:
    place = say("in {folder}", folder=sweeps.root()) if limits.server_paths() else say("on the server")
    st.caption(plain(say("Kept {place}, one folder each; set ENGRAM_RUNS to use another place.", place=place)))
