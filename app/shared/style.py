"""Styles that several pages share."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from app.shared.wording import markup

SUMMARY_STYLE = """
<style>
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px 18px;
  margin: 4px 0 0; padding: 0 }
.numbers div { margin: 0; padding: 0 }
.numbers dt { padding: 0; margin: 0; font-size: 0.84rem; color: color-mix(in srgb, currentColor 78%, transparent) }
.numbers dd { margin: 0; font-size: 1.3rem; line-height: 1.35; font-variant-numeric: tabular-nums }
.numbers dd.note { font-size: 0.8rem; line-height: 1.6; overflow-wrap: anywhere;
  color: color-mix(in srgb, currentColor 78%, transparent) }
</style>
"""


def numbers(items: Iterable[tuple[str, str, str]]) -> None:
    """Draw a row of (name, value, note); a note may be empty."""
    cells = "".join(
        f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd>"
        + (f'<dd class="note">{markup(note)}</dd></div>' if note else "</div>")
        for name, value, note in items
    )
    st.html(f'{SUMMARY_STYLE}<dl class="numbers">{cells}</dl>')
