"""Class: the link of the class in large letters and as a QR code, for the projector."""

import io
import os

import segno
import streamlit as st

from app.classroom.names import LINK
from app.language.say import say

link = os.environ[LINK]
code = io.BytesIO()
segno.make(link, error="m").save(code, kind="png", scale=10)
st.title(say("Class"), anchor=False)
picture, words = st.columns([1, 1.4], gap="large", vertical_alignment="center")
with picture:
    st.image(code.getvalue(), caption=say("Scan to open the page"), width=420)
with words:
    st.header(link.partition("/?")[0], anchor=False)
    st.link_button(say("Open the first trace"), link, icon=":material/biotech:")
    st.caption(
        say(
            "Nobody logs in, and no name is asked for. What a pupil types stays in the memory of this server until the "
            "page has been closed or the server stops."
        )
    )
