"""Runs: what this session traced and edited, saved runs, and the experiments of the folder."""

import streamlit as st

from app.batch import show_experiments
from app.language.say import later, said, say
from app.runs import show_runs
from app.server import cache, catalog
from app.session import state
from app.session.session import session
from app.shared.waiting import wait

state.start_session(catalog.choices())
runner = cache.runner()
SESSION, EXPERIMENTS = later("This session"), later("Experiments")

st.title(say("Runs"), anchor=False)
# Set once: tabs with another default are new tabs to Streamlit, which would then switch back while in use.
if not session().runs_tab:
    session().runs_tab = EXPERIMENTS if "experiment" in st.query_params else SESSION
ours, experiments = st.tabs([said(SESSION), said(EXPERIMENTS)], default=said(session().runs_tab))
with ours:
    waiting = show_runs.draw(runner)
with experiments:
    waiting += show_experiments.draw(runner)
wait(runner, waiting)
