"""How a notebook shows a result: its numbers as a table, its figure below."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from tracing.plots import labels
from tracing.plots.lenses import heads_figure
from tracing.plots.paper import average_figure, trace_figure
from tracing.plots.sheet import export
from tracing.sites import SITE_NAMES
from tracing.types import TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

WIDTH = 5.5
"""Inches of a figure in a notebook."""
PIXELS = 110
"""Of an inch, on the screen; the picture itself has 300."""


def trace_bundle(result: TraceResult) -> dict[str, str]:
    """A trace as plain text and as HTML."""
    result = result.own_words()
    last = result.last_subject()
    rows = [
        ("model", f"{result.model_name}, revision {result.revision[:12]}"),
        ("restored", f"{SITE_NAMES[result.config.site].long}, window of {result.config.window}"),
        (labels.measured(result), f"{result.clean:.4f} clean, {float(result.corrupted.mean()):.4f} corrupted"),
        ("total effect", f"{result.total_effect:.4f} (n = {len(result.corrupted)} noise samples)"),
        ("largest effect", str(result.largest())),
        *([] if last is None else [("at the last subject token", str(last))]),
        ("suggested layer", result.suggestion().reason),
    ]
    draw = heads_figure if result.config.site == "attn_heads" else trace_figure
    return _bundle(f"Trace of {result.prompt!r}", rows, draw(result, width_in=WIDTH), labels.title(result))


def average_bundle(average: AverageEffects) -> dict[str, str]:
    """Averages over facts, likewise."""
    low, high = average.ate_ci()
    rows = [
        ("model", f"{average.model_name}, revision {average.revision[:12]}"),
        ("facts", f"{average.n_facts} that the model knows; {average.n_unknown} others left out"),
        ("average total effect", f"{average.ate:.4f} (95 % interval {low:.4f} to {high:.4f})"),
    ]
    title = "Average indirect effects"
    return _bundle(title, rows, average_figure(average, width_in=1.3 * WIDTH), title)


def _bundle(title: str, rows: list[tuple[str, str]], figure: Figure, alt: str) -> dict[str, str]:
    """The rows and the figure."""
    width = max(len(name) for name, _ in rows)
    text = "\n".join([title, *(f"{name:<{width}}  {value}" for name, value in rows)])
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    picture = base64.b64encode(export(figure, "png", title=alt)).decode()  # an SVG of many cells is ten times as large
    return {
        "text/plain": text,
        "text/html": f"<p><b>{html.escape(title)}</b></p><table>{cells}</table>"
        f"<img alt='{html.escape(alt, quote=True)}' width='{round(PIXELS * figure.get_figwidth())}' "
        f"src='data:image/png;base64,{picture}'>",
    }
