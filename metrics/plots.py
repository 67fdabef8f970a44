"""Figures of runs of edits."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from metrics.sequence import SequenceReport

COLORS = ("#1f5fa8", "#d1701f", "#2e8b57", "#a23b72", "#6b6f76", "#b8a11e", "#4b3f99", "#c0392b")
DASHES = ("solid", "dash", "dot", "dashdot")


def sequence_figure(reports: Sequence[SequenceReport]) -> go.Figure:
    """Runs of edits side by side: success of all edits so far, and perplexity of ordinary text.

    Axes: edits made; share in % for reliability, generalization and locality, perplexity on a log scale.

    Raises:
        ValueError: if there is no run.
    """
    if not reports:
        raise ValueError("there is no run of edits to draw; give at least one")
    panels = {
        "reliability": "Edits that hold (%)",
        "generalization": "Paraphrases that hold (%)",
        "locality": "Neighbours kept (%)",
        "perplexity": "Perplexity of ordinary text",
    }
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels.values()), horizontal_spacing=0.1)
    for index, report in enumerate(reports):
        frame = report.to_frame()
        for place, name in enumerate(panels):
            scale = 1 if name == "perplexity" else 100
            known = frame[frame[name].notna() & ((frame["n_edits"] > 0) | (name == "perplexity"))]
            figure.add_trace(
                go.Scatter(
                    x=known["n_edits"].tolist(),
                    y=[scale * value for value in known[name].tolist()],
                    mode="lines+markers",
                    name=report.method,
                    legendgroup=report.method,
                    showlegend=place == 0,
                    line={"color": COLORS[index % len(COLORS)], "dash": DASHES[index % len(DASHES)]},
                ),
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
    figure.update_xaxes(title="Edits made", rangemode="tozero")
    for place in range(3):
        figure.update_yaxes(range=[-3, 103], row=place // 2 + 1, col=place % 2 + 1)
    figure.update_yaxes(type="log", row=2, col=2)
    figure.update_layout(
        template="plotly_white", height=640, margin={"l": 10, "r": 10, "t": 50, "b": 40}, legend={"orientation": "h"}
    )
    return figure
