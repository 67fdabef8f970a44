"""Runs: what this session traced and edited, saved runs, and the experiments of the folder."""

import streamlit as st

from app import cache, catalog, state
from app.views import show_experiments, show_runs
from app.views.waiting import wait

state.start_session(catalog.choices())
runner = cache.runner()
SESSION, EXPERIMENTS = "This session", "Experiments"

st.title("Runs", anchor=False)
linked = "experiment" in st.query_params
session, experiments = st.tabs([SESSION, EXPERIMENTS], default=EXPERIMENTS if linked else SESSION)
with session:
    waiting = show_runs.draw(runner)
with experiments:
    more, changed = show_experiments.draw(runner)
wait(runner, waiting + more, changed)
