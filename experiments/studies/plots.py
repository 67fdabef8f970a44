"""Figures of the studies, for print.

Matplotlib is imported by the functions: this package's modules are imported whenever studies are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tracing.labels import CATEGORY_NAMES, SITE_NAMES, average_title, layer_ticks, map_title
from tracing.types import CATEGORIES, Category

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure  # other modules name the type through this one

    from experiments.studies.regression import Array, Regression
    from tracing import AverageEffects

COLOURS = ("#6a3d9a", "#1b7837", "#b2182b", "#2166ac", "#e08214", "#4d4d4d", "#a6761d", "#e7298a")
"""Told apart in print and with colour-blind eyes; in the order of lines."""
FONT = 8.0
"""Points at final size."""


def average_figure(average: AverageEffects, window: int) -> Figure:
    """Maps of mean indirect effects [category, layer] on one scale, and below them two rows as curves with 95 % bands.

    Args:
        window: layers of MLPs or attentions restored together.
    """
    from matplotlib.figure import Figure

    from tracing.plots import ROME_MAPS, font_families, panel

    names = list(average.effects)
    figure = Figure(figsize=(2.1 * len(names) + 1.2, 5.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.0, 1.35), squeeze=False)[:, 0]
    grids = [np.stack([average.mean(name, category) for category in CATEGORIES]) for name in names]
    everything = np.concatenate(grids)
    fonts = font_families([average.model_name])
    for index, axes in enumerate(upper.subplots(1, len(names), squeeze=False)[0]):
        name, grid = names[index], grids[index]
        rows = list(CATEGORY_NAMES.values()) if index == 0 else []
        panel(upper, axes, grid, ROME_MAPS[name.partition(",")[0]], rows, "AIE", fonts, everything)
        axes.set_title(_map_words(name, window).replace(", ", ",\n"), fontsize=FONT, fontfamily=fonts)
        axes.set_xlabel("layer", fontsize=FONT, fontfamily=fonts)
    rows_drawn: tuple[Category, ...] = ("last_subject", "last_token")
    for axes, category in zip(lower.subplots(1, 2, sharey=True), rows_drawn, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            mean, (low, high) = average.mean(name, category), average.ci(name, category)
            layers = np.arange(len(mean))
            style = "--" if "severed" in name else "-"  # severed curves often lie on the whole one
            axes.plot(layers, mean, style, color=colour, marker="o", markersize=3, label=_map_words(name, window))
            axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        where = f"{CATEGORY_NAMES[category]} (n = {average.n(names[0], category)})"
        _dress(axes, fonts, where, "layer", "mean indirect effect on p(answer)")
        axes.set_xticks(layer_ticks(average.effects[names[0]].shape[2]))
    lower.axes[1].legend(fontsize=FONT - 1, loc="upper left")
    figure.suptitle(average_title(average), fontsize=FONT + 1, fontfamily=fonts)
    return figure


def _map_words(name: str, window: int) -> str:
    """A map's title, with its window where it has one."""
    windowed = name in (SITE_NAMES.keys() - {"resid_post"}) and window > 1
    return f"{map_title(name)}, window of {window}" if windowed else map_title(name)


def _dress(axes: Axes, fonts: list[str], title: str, x: str, y: str) -> None:
    """Titles and the line of zero."""
    axes.axhline(0.0, color="0.6", linewidth=0.6)
    axes.set_title(title, fontsize=FONT + 1, fontfamily=fonts)
    axes.set_xlabel(x, fontsize=FONT, fontfamily=fonts)
    axes.set_ylabel(y, fontsize=FONT, fontfamily=fonts)
    axes.tick_params(labelsize=FONT - 1)


def sweep_figure(table: pd.DataFrame, effect: Array, success: Array, fit: Regression, method: str) -> Figure:
    """Left: tracing effect and edit success by layer, with 95 % bands.  Right: both around their layer's mean.

    Args:
        table: of `layer_sweep.by_layer`.
        effect, success: [fact, layer].
    """
    from matplotlib.figure import Figure

    from tracing.plots import font_families

    fonts = font_families([method])
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = {"effect": "tracing effect", "rewrite": "rewrite score", "neighborhood": "neighbours kept"}
    for (name, words), colour in zip(curves.items(), COLOURS, strict=False):
        left.plot(table["layer"], table[name], color=colour, marker="o", markersize=3, label=words)
        left.fill_between(
            table["layer"], table[f"{name}_low"], table[f"{name}_high"], color=colour, alpha=0.15, linewidth=0
        )
    _dress(left, fonts, f"{method}, {len(effect)} facts", "layer", "mean over facts")
    left.legend(fontsize=FONT - 1)
    x, y = effect - effect.mean(axis=0), success - success.mean(axis=0)
    right.scatter(x.ravel(), y.ravel(), s=5, color="0.4", alpha=0.5, linewidth=0)
    ends = np.array([x.min(), x.max()])
    right.plot(ends, fit.slope * ends, color=COLOURS[2])
    _dress(
        right,
        fonts,
        f"R² {fit.r2_layers:.3f} by layer, {fit.r2_both:.3f} with tracing",
        "tracing effect, around its layer's mean",
        "rewrite score, around its layer's mean",
    )
    return figure


def noise_figure(averages: Mapping[str, AverageEffects], table: pd.DataFrame) -> Figure:
    """Left: total effect of every way of corrupting, with its interval.  Right: its share restored, by layer.

    Args:
        table: of `noise.compared`.
    """
    from matplotlib.figure import Figure

    from tracing.plots import font_families

    fonts = font_families(averages)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.4))
    places = np.arange(len(table))
    errors = np.abs(np.stack([table["ate"] - table["ate_low"], table["ate_high"] - table["ate"]]))
    left.errorbar(table["ate"], places, xerr=errors, fmt="o", markersize=4, color=COLOURS[0], linewidth=1)
    left.set_yticks(places, table["way"], fontfamily=fonts)
    left.invert_yaxis()
    _dress(left, fonts, f"{table['n'].iloc[0]} facts", "average total effect on p(answer)", "")
    left.axvline(0.0, color="0.6", linewidth=0.6)
    for index, (way, average) in enumerate(averages.items()):
        if abs(average.ate) < 0.02:  # a share of next to nothing is noise
            continue
        share = average.last_subject() / average.ate
        style = ("-", "--", ":")[index // len(COLOURS)]
        right.plot(share, style, color=COLOURS[index % len(COLOURS)], marker="o", markersize=3, label=way)
    _dress(right, fonts, "Last subject token", "layer", "share of the total effect restored")
    right.legend(fontsize=FONT - 1.5)
    return figure
