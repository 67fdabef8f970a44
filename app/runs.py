"""Runs: what this session traced and edited, and saved runs, to look at, compare and keep."""

import streamlit as st

from app.views import show_runs

st.title("Runs", anchor=False)
show_runs.draw()
