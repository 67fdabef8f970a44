"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from metrics.definitions import METRICS
from metrics.report import EditReport
from metrics.sequence import SequenceReport
from metrics.types import Score

BEFORE, AFTER = "#9aa5b1", "#1f5fa8"
"""Grey and blue: told apart in print and with colour-blind eyes."""


def before_after_figure(report: EditReport) -> go.Figure:
    """The four headline shares before and after the edit with 95 % intervals; a metric without a value says so.

    Axes: share of prompts in %, from 0 to 100; one line per metric.
    """
    headlines = [report.headline(metric) for metric in METRICS if metric != "efficiency"]
    labels = [f"{METRICS[score.metric].label}<br>n = {score.n}" for score in headlines]
    positions = list(range(len(headlines)))
    figure = go.Figure(
        [
            _marks(headlines, positions, "Before", BEFORE, after=False),
            _marks(headlines, positions, "After", AFTER, after=True),
        ]
    )
    for position, score in zip(positions, headlines, strict=True):
        if not score.measured:
            figure.add_annotation(
                x=0, y=position, text=f"not measured: {score.reason}", showarrow=False, xanchor="left"
            )
    figure.update_xaxes(title="Share of prompts (%)", range=[-2, 102], tickvals=[0, 25, 50, 75, 100], zeroline=False)
    figure.update_yaxes(
        tickvals=positions, ticktext=labels, range=[len(headlines) - 0.5, -0.5], showgrid=False, zeroline=False
    )
    figure.update_layout(
        template="plotly_white",
        height=90 * len(headlines) + 90,
        margin={"l": 10, "r": 10, "t": 40, "b": 40},
        legend={"orientation": "h", "y": 1.12, "x": 0},
    )
    return figure


def _marks(scores: list[Score], positions: list[int], name: str, color: str, *, after: bool) -> go.Scatter:
    """Points with intervals, a little above the line for before and below it for after, so that they do not cover."""
    values = [score.value if after else score.before for score in scores]
    ends = [score.ci if after else score.before_ci for score in scores]
    known = [
        (position, value, end)
        for position, value, end in zip(positions, values, ends, strict=True)
        if value is not None and end is not None
    ]
    return go.Scatter(
        x=[100 * value for _, value, _ in known],
        y=[position + (0.12 if after else -0.12) for position, _, _ in known],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (end[1] - value) for _, value, end in known],
            "arrayminus": [100 * (value - end[0]) for _, value, end in known],
        },
        mode="markers",
        name=name,
        marker={"color": color, "size": 11, "symbol": "circle" if after else "circle-open", "line": {"width": 2}},
        hovertemplate=f"{name}: %{{x:.1f}} %<extra></extra>",
    )


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
