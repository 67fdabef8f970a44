"""Make text from readers safe to show, and numbers short to read."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=\"'@/])")

NONE = "—"
"""What a table shows where there is no number."""
Cells = dict[str, str]
"""A row of a table: column -> text."""


def plain(text: str) -> str:
    """For Streamlit's Markdown elements: every mark escaped, so nothing in `text` becomes a link, a picture or HTML."""
    return _MARKDOWN.sub(r"\\\1", text.replace("\n", " "))


def sentence(text: object) -> str:
    """An error's words as a sentence: a capital first, unless it is a name with digits; one full stop at the end."""
    words = str(text)
    name = any(map(str.isdigit, words.partition(" ")[0]))
    return (words[:1] if name else words[:1].upper()) + words[1:] + ("" if words.endswith((".", ")")) else ".")


def markup(text: str) -> str:
    """For `st.html`: the five characters of HTML escaped."""
    return html.escape(text, quote=True)


def visible(token: str) -> str:
    """A token with its spaces shown as ␣ and its line ends as ↵."""
    return token.replace(" ", "␣").replace("\n", "↵") or "∅"


def signs(text: str) -> str:
    """A finished sentence with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def probability(value: float) -> str:
    """Two decimals, and never a zero or a one that is not exact."""
    if 0 < value < 0.005:
        return "< 0.01"
    if 0.995 <= value < 1:
        return "> 0.99"
    return f"{value:.2f}"


def short(value: float) -> str:
    """A difference of probabilities: two decimals, more where it is small, a true minus sign."""
    digits = 2 if abs(value) >= 0.1 or abs(value) < 5e-5 else 3 if abs(value) >= 0.01 else 4
    return f"{value + 0.0:.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds for a reader: 0.4 s, 12 s, 3 min."""
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def roughly(seconds: float) -> str:
    """A guess for a reader: 9 s, 3 min."""
    return f"{max(1, seconds):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def amount(value: float, unit: str, *, signed: bool = False) -> str:
    """A score in its unit: shares as 93 %, differences of them with a true minus sign, sizes in MB."""
    sign = "+" if signed else ""
    match unit:
        case "share":
            text = f"{100 * value:{sign}.0f} {'pt' if signed else '%'}"
        case "bytes":
            text = f"{value / 2**20:{sign},.0f} MB"
        case "s":
            text = f"{'+' if signed and value > 0 else ''}{'-' if value < 0 else ''}{duration(abs(value))}"
        case "entries" | "rank":
            text = f"{value:{sign},.0f}"
        case "probability":
            text = f"{value:{sign}.3f}"
        case _:
            text = f"{value:{sign}.3g} {unit}"
    return text.replace("-", "−")
