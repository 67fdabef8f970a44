"""Figures of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

PANELS = (
    ("immediate", "Held when made (%)"),
    ("reliability", "Edits that hold (%)"),
    ("retention", "Held when made, hold still (%)"),
    ("generalization", "Paraphrases (%)"),
    ("locality", "Neighbours kept (%)"),
    ("perplexity", "Perplexity of neutral text"),
)


def sequence_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> Figure:
    """One panel a quantity, one line a method, over the number of edits (logarithmic).

    Args:
        curves: method -> lines of `benchmarks.sequences`, by rising number of edits.
        kind: "batch" or "sequential".
    """
    panels = [panel for panel in PANELS if any(panel[0] in line for lines in curves.values() for line in lines)]
    figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    for place, (key, title) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        share = key != "perplexity"
        for label, lines in curves.items():
            points = [(line["edits"], line[key]) for line in lines if line.get(key) is not None]
            axes.plot(
                [edits for edits, _ in points],
                [100 * value if share else value for _, value in points],
                marker="o",
                label=label,
            )
        axes.set_xscale("log")
        ticks = sorted({line["edits"] for lines in curves.values() for line in lines})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("Edits at once" if kind == "batch" else "Edits, one after the other")
        axes.set_ylabel(title)
        if share:
            axes.set_ylim(-3, 103)
        else:
            axes.set_yscale("log")
    if panels:
        figure.axes[0].legend(fontsize="small")
    return figure
