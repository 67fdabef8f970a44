"""The page Streamlit runs: finds the packages, sets the frame, shows the chosen page.

Nothing here imports torch: the form must stand before the model's libraries are loaded (they take seconds).
"""

import sys
from pathlib import Path

# `streamlit run app/main.py` puts app/ on the path, where our packages are not; `python -m app` has the root already.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import streamlit as st  # noqa: E402

from app.session.session import session  # noqa: E402

STYLE = """<style>
[data-testid=stHeading] h2 { font-size: 1.75rem; padding: 0.25rem 0 0.5rem }
[data-testid=stElementContainer]:has(h1.unseen) { position: absolute; width: 1px; height: 1px; overflow: hidden }
[data-retained=true]:has(> .stButton) { position: absolute; opacity: 0; pointer-events: none }
</style>"""
"""Headings in their order (one h1 on a page, h2 for its cards) at sizes that leave room for what is below them.  A
button that was clicked and is gone since, as Run is while Cancel stands there, is kept by Streamlit until the script
ends, and the script waits for the job: it keeps the keyboard's place unseen."""

# A file of our own: Streamlit would fetch a Material symbol for the tab from a foreign server.
st.set_page_config(page_title="Engram", page_icon=f"{ROOT}/app/icon.svg", layout="wide")
st.logo(f"{ROOT}/app/icon.svg", size="medium")
page = st.navigation(
    [
        st.Page("workbench/page.py", title="Workbench", icon=":material/biotech:", default=True),
        st.Page("runs/page.py", title="Runs", url_path="runs", icon=":material/table_view:"),
        st.Page("batch/page.py", title="Batch", url_path="batch", icon=":material/dataset:"),
        st.Page("methods/page.py", title="Methods", url_path="methods", icon=":material/functions:"),
    ],
    position="top",
)
st.html(STYLE)
if page.title != "Workbench":
    session().left = True
page.run()
