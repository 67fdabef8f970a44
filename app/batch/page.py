"""Batch: many facts at once, from a file or the atlas to averaged maps and leaderboards, in a separate process."""

import streamlit as st

from app.batch import choose_facts, grid, show_experiment, sweeps
from app.classroom.names import has_page
from app.language.say import say
from app.server import cache, catalog
from app.session import state
from app.session.session import session
from app.shared import model_choice
from app.shared.waiting import Waiting, wait

NONE = "-"
"""Stands for no experiment: the reader has closed the one that was shown."""


def close() -> None:
    """Callback: stop showing the experiment; it continues, and the page Runs lists it."""
    session().experiment = NONE
    st.query_params.pop("experiment", None)


offer = catalog.offer()
state.start_session(offer.models)
runner = cache.runner()
painted = session().painted
st.title(say("Batch"), anchor=False)
model, downloading = model_choice.draw(runner, offer)
waiting: list[Waiting] = []
above = st.container()  # also when empty: cards that change places leave dimmed copies behind
shown = sweeps.current(st.query_params.get("experiment") or session().experiment)
if shown is not None:
    session().experiment = shown.name
    if st.query_params.get("experiment") != shown.name:
        st.query_params["experiment"] = shown.name
    session().runs_tab = ""  # the link below opens the experiments
if shown is not None:
    with above, st.container(border=True, key="batch_shown"):
        if painted:
            waiting = show_experiment.draw(runner, shown)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(say("Close"), key="batch_close", icon=":material/close:", on_click=close)
            if has_page("runs"):
                st.page_link(
                    "runs/page.py",
                    label=say("All experiments are on the page Runs"),
                    icon=":material/table_view:",
                    query_params={"experiment": shown.name},
                )
with st.container(border=True):
    source = choose_facts.source()
    dataset = None
    if painted:
        dataset, more = choose_facts.draw(runner, source)
        waiting += more
with st.container(border=True):
    ask, more = grid.grid(runner, model, source, dataset)
    waiting += more
with st.container(border=True):
    waiting += grid.start(runner, model, ask)

if not painted:
    session().painted = True
    st.rerun()
wait(runner, waiting + downloading)
