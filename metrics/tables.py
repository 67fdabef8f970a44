"""Scores as text: formatted numbers, LaTeX and Markdown tables."""

from __future__ import annotations

import html as markup
from collections.abc import Sequence

from metrics.definitions import METRICS
from metrics.types import Score, SummaryScore, Unit

NOT_MEASURED = "not measured"
HEADERS = ("Metric", "Score", "Before", "After", "Change", "95 % interval", "n", "Left out")
SUMMARY_HEADERS = ("Name", "Score", "Before", "After", "Change", "95 % interval", "Edits", "Prompts")


def number(value: float | None, unit: Unit, *, signed: bool = False) -> str:
    """A formatted number: shares as 97.5 %, their changes (signed) as +2.5 pt, bytes as MiB; "–" for None."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    match unit:
        case "share":
            # A share of weights may be far below a tenth of a percent.
            digits = 1 if value == 0 or abs(value) >= 0.0005 else 5
            return f"{100 * value:{sign}.{digits}f} {'pt' if signed else '%'}"
        case "bytes":
            return f"{value / 2**20:{sign},.0f} MiB"
        case "entries":
            return f"{value:{sign},.0f}"
        case "rank":
            return f"{value:{sign}g}"
        case "s":
            return f"{value:{sign}.3g} s"
        case "nats":
            return f"{value:{sign}.4g} nats"
        case _:
            return f"{value:{sign}.4g}"


def interval(score: Score | SummaryScore) -> str:
    """The score's 95 % interval, or "–"."""
    if score.ci is None:
        return "–"
    low, high = (number(end, score.unit).removesuffix(" %").removesuffix(" nats") for end in score.ci)
    unit = " %" if score.unit == "share" else " nats" if score.unit == "nats" else ""
    return f"{low} to {high}{unit}"


def cells(score: Score) -> tuple[str, ...]:
    """One line of a table, in the order of HEADERS."""
    after = number(score.value, score.unit) if score.measured else f"{NOT_MEASURED}: {score.reason}"
    return (
        METRICS[score.metric].label,
        score.label,
        number(score.before, score.unit),
        after,
        number(score.change, score.unit, signed=True),
        interval(score),
        str(score.n) if score.measured else "0",
        str(score.n_left_out) if score.left_out else "",
    )


def summary_cells(score: SummaryScore) -> tuple[str, ...]:
    """One line of a table over many edits, in the order of SUMMARY_HEADERS."""
    return (
        score.name,
        score.label,
        number(score.before, score.unit),
        NOT_MEASURED if score.value is None else number(score.value, score.unit),
        number(score.change, score.unit, signed=True),
        interval(score),
        str(score.n),
        str(score.n_prompts),
    )


def markdown(scores: Sequence[Score], caption: str) -> str:
    """A Markdown table; pipes and line breaks in texts are escaped."""
    return _markdown(HEADERS, 2, [cells(score) for score in scores], caption)


def summary_markdown(scores: Sequence[SummaryScore], caption: str) -> str:
    """The same over many edits."""
    return _markdown(SUMMARY_HEADERS, 2, [summary_cells(score) for score in scores], caption)


def _markdown(headers: Sequence[str], n_words: int, rows: Sequence[Sequence[str]], caption: str) -> str:
    lines = [
        _plain_line(caption),
        "",
        "| " + " | ".join(headers) + " |",
        "|" + "---|" * n_words + "---:|" * (len(headers) - n_words),
        *("| " + " | ".join(_plain_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def html(scores: Sequence[Score], caption: str) -> str:
    """A table for a notebook; shares have a bar from their value before (line) to their value after (filled)."""
    head = "".join(f"<th>{name}</th>" for name in (*HEADERS, ""))
    rows = [
        "".join(f"<td style='text-align:left'>{markup.escape(cell)}</td>" for cell in cells(score))
        + f"<td>{_bar(score)}</td>"
        for score in scores
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p><b>{markup.escape(caption)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bar(score: Score) -> str:
    """0 to 100 % as a bar of 100 pixels; empty for other units."""
    if score.unit != "share" or score.value is None:
        return ""
    before = 100 * (score.before or 0.0)
    line = "" if score.before is None else f"<path d='M{before:.1f} 0V12' stroke='currentColor' stroke-width='2'/>"
    return (
        f"<svg width='102' height='12' role='img' aria-label='{100 * score.value:.0f} %'>"
        f"<rect width='100' height='12' fill='none' stroke='currentColor' stroke-opacity='.3'/>"
        f"<rect width='{100 * score.value:.1f}' height='12' fill='#6a3d9a' fill-opacity='.7'/>{line}</svg>"
    )


def latex(scores: Sequence[Score], caption: str) -> str:
    """A booktabs table in a table environment; a rule between metrics."""
    groups: list[list[tuple[str, ...]]] = []
    last = None
    for score in scores:
        if score.metric != last:
            groups.append([])
            last = score.metric
        groups[-1].append(cells(score))
    return _latex(HEADERS, "ll", groups, caption)


def summary_latex(scores: Sequence[SummaryScore], caption: str) -> str:
    """A booktabs table over many edits."""
    return _latex(SUMMARY_HEADERS, "ll", [[summary_cells(score) for score in scores]], caption)


def _latex(headers: Sequence[str], words: str, groups: Sequence[Sequence[Sequence[str]]], caption: str) -> str:
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(_plain_line(caption))}}}",
        f"\\begin{{tabular}}{{{words.ljust(len(headers), 'r')}}}",
        "\\toprule",
        " & ".join(escape(header) for header in headers) + " \\\\",
    ]
    for rows in groups:
        lines.append("\\midrule")
        lines += [" & ".join(escape(_plain_line(cell)) for cell in row) + " \\\\" for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


_LATEX = {
    "\\": "\\textbackslash{}",
    "&": "\\&",
    "%": "\\%",
    "$": "\\$",
    "#": "\\#",
    "_": "\\_",
    "{": "\\{",
    "}": "\\}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "→": "$\\rightarrow$",
    "…": "\\dots{}",
    "–": "--",
}


def escape(text: str) -> str:
    """Text with every character that LaTeX reads as a command written out."""
    return "".join(_LATEX.get(character, character) for character in text)


def _plain_line(text: str) -> str:
    return " ".join(text.split())
