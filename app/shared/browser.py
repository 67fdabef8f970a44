"""What only the browser can do, in a few lines of its own language: copy the link, remember a session in its tab."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.session import keep
from app.session.session import session

COPY_HTML = """<button type="button">Copy link</button><span role="status"></span>"""
COPY_CSS = """
button { font: inherit; font-size: 0.933rem; color: inherit; background: transparent;
  border: 1px solid var(--st-border-color);
  border-radius: 8px; padding: 0.4rem 0.75rem; min-height: 2.5rem; cursor: pointer; white-space: nowrap }
button:hover, button:focus-visible { border-color: var(--st-primary-color); color: var(--st-primary-color) }
span { position: absolute; width: 1px; height: 1px; overflow: hidden }
"""
COPY_JS = """
export default function ({ parentElement }) {
  const button = parentElement.querySelector("button"), told = parentElement.querySelector("span");
  const copied = async () => {
    try { await navigator.clipboard.writeText(location.href); return true } catch {
      // Without https a browser offers only the older way.
      const field = document.createElement("textarea");
      field.value = location.href; document.body.append(field); field.select();
      const done = document.execCommand("copy"); field.remove(); return done } };
  button.onclick = async () => {
    const words = (await copied()) ? "Link copied" : "Copy the address bar";
    button.textContent = told.textContent = words;
    setTimeout(() => { button.textContent = "Copy link" }, 2000) };
}
"""

REMEMBER_JS = """
export default function ({ data, setTriggerValue }) {
  try {
    const earlier = sessionStorage.getItem("engram-session");
    if (earlier && earlier !== data.name && !data.settled) setTriggerValue("earlier", earlier);
    else sessionStorage.setItem("engram-session", data.name);
  } catch { /* a browser that keeps nothing: a reload begins anew */ }
}
"""


def _component(name: str, **parts: str) -> Any:
    """A component, registered once in a server."""
    return st.components.v2.component(name, **parts)


_COPY = _component("engram_copy_link", html=COPY_HTML, css=COPY_CSS, js=COPY_JS)
_REMEMBER = _component("engram_remember", js=REMEMBER_JS)


def remember_session() -> None:
    """Let the tab keep the session's name, and take over the session whose name it kept before a reload."""
    _REMEMBER(
        key="tab",
        data={"name": keep.hold(), "settled": session().asked_before},
        on_earlier_change=lambda: keep.take_over(str(st.session_state.tab.earlier)),
    )


def copy_link() -> None:
    """Draw the button that copies the address of the page: the fields, and everything that decides the map."""
    _COPY(key="copy_link", width="content")
