"""The script Streamlit runs: it finds the packages, sets the frame and shows the chosen page.

Nothing here imports torch: the form must be drawn before the model's libraries load, which takes seconds.
"""

import os
import sys
from pathlib import Path

# `streamlit run app/main.py` puts app/ on the path, where our packages are not; `python -m app` has the root already.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import streamlit as st  # noqa: E402

from app.classroom.names import LINK, has_page  # noqa: E402
from app.language.say import say, start, switch  # noqa: E402
from app.server import limits  # noqa: E402
from app.session import keep  # noqa: E402
from app.session.session import session  # noqa: E402

STYLE = """<style>
[data-testid=stMainBlockContainer] { padding-inline: clamp(1rem, 2vw, 2.5rem) }
[data-testid=stHeading] h2 { font-size: 1.3rem; padding: 0.2rem 0 }
.st-key-language { position: fixed; z-index: 999992; top: 0.55rem; right: 1rem; width: auto }
.stButton kbd { opacity: 0.85 }
[data-testid=stCode] .token.triple-quoted-string { color: inherit !important }
[data-testid=stTopNavLink]:focus-visible { outline: 2px solid currentColor; outline-offset: 1px }
[data-retained=true]:has(> .stButton) { position: absolute; opacity: 0; pointer-events: none }
</style>"""
"""Headings (one h1 on a page, h2 for its cards) at sizes that leave room below them.  Streamlit's green of a docstring
is too pale on white.  Streamlit keeps a clicked button that is no longer drawn, such as Run while Cancel is shown,
until the script ends, and the script waits for the job: the button is hidden but keeps the keyboard focus."""

# Our own icon file: Streamlit would fetch a Material symbol for the tab from another server.
st.set_page_config(page_title="Engram", page_icon=f"{ROOT}/app/icon.svg", layout="wide")
start()
st.logo(f"{ROOT}/app/icon.svg", size="medium")
pages = {
    "workbench": st.Page("workbench/page.py", title=say("Workbench"), icon=":material/biotech:", default=True),
    "lessons": st.Page("lessons/page.py", title=say("Lessons"), url_path="lessons", icon=":material/menu_book:"),
    "runs": st.Page("runs/page.py", title=say("Runs"), url_path="runs", icon=":material/table_view:"),
    "batch": st.Page("batch/page.py", title=say("Batch"), url_path="batch", icon=":material/dataset:"),
    "methods": st.Page("methods/page.py", title=say("Methods"), url_path="methods", icon=":material/functions:"),
}
if os.environ.get(LINK):  # a class has chosen its pages, and one shows the way in
    pages = {name: page for name, page in pages.items() if has_page(name)}
    pages["class"] = st.Page("classroom/page.py", title=say("Class"), url_path="class", icon=":material/school:")
page = st.navigation(list(pages.values()), position="top")
st.html(STYLE)
switch()
if page.url_path:  # every page but the Workbench
    session().left, session().probes_drawn = True, ""
keep.take_over()
if limits.login() and not st.user.is_logged_in:
    st.button(say("Log in"), on_click=st.login, icon=":material/login:")
    st.stop()
page.run()
