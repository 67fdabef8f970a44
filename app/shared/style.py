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
LINE_STYLE = """
<style>
dl.line { display: flex; flex-wrap: wrap; gap: 0 1.1rem; margin: 0; padding: 0; line-height: 1.5 }
.line div { display: flex; gap: 0.35rem; align-items: baseline; margin: 0; flex-wrap: wrap }
.line dt, .line dd { padding: 0; margin: 0; font-size: 0.88rem }
.line dt, .line dd.note { color: color-mix(in srgb, currentColor 78%, transparent) }
.line dd.value { font-weight: 600; font-size: 1rem; font-variant-numeric: tabular-nums }
</style>
"""

Item = tuple[str, str, str]
"""(name, value, note); the note may be empty."""


def numbers(items: Iterable[Item]) -> None:
    """Draw a row of large numbers, each below its name."""
    cells = "".join(
        f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd>"
        + (f'<dd class="note">{markup(note)}</dd></div>' if note else "</div>")
        for name, value, note in items
    )
    st.html(f'{SUMMARY_STYLE}<dl class="numbers">{cells}</dl>')


def line(items: Iterable[Item]) -> None:
    """Draw numbers in a line of text, each behind its name."""
    cells = "".join(
        f'<div><dt>{markup(name)}</dt><dd class="value">{markup(value)}</dd>'
        + (f'<dd class="note">{markup(note)}</dd></div>' if note else "</div>")
        for name, value, note in items
    )
    st.html(f'{LINE_STYLE}<dl class="line">{cells}</dl>')
