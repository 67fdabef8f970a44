"""What only the browser can do, in a few lines of its own language: copy the page's link."""

from __future__ import annotations

from typing import Any

import streamlit as st

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


def _component(name: str, **parts: str) -> Any:
    """A component, registered once in a server."""
    return st.components.v2.component(name, **parts)


_COPY = _component("engram_copy_link", html=COPY_HTML, css=COPY_CSS, js=COPY_JS)


def copy_link() -> None:
    """Draw the button that copies the address of the page: the fields, and everything that decides the map."""
    _COPY(key="copy_link", width="content")
