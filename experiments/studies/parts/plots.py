"""Figures of the studies, for print.

Matplotlib is imported by the functions: this package's modules are imported whenever studies are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracing.plots.colours import BY_SITE, LINES
from tracing.plots.labels import CATEGORY_NAMES, average_title, layer_ticks, map_title
from tracing.sites import SITES, site_of
from tracing.types import CATEGORIES, Category

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure  # re-exported as a type for other modules

    from experiments.studies.parts.regression import Array, Regression
    from tracing import AverageEffects

FONT = 8.0
"""Font sizes in points at final size."""
DECADE = 10
"""Ratio of perplexities above which their axis is logarithmic; within one power of ten such an axis has no round
numbers."""
ZERO: dict[str, Any] = {"color": "0.6", "linewidth": 0.6}
"""The line of zero."""


def average_figure(average: AverageEffects, window: int) -> Figure:
    """Maps of mean indirect effects [category, layer] on one scale, and below them two rows as curves with 95 % bands.

    Args:
        window: layers of MLPs or attentions restored together.
    """
    from matplotlib.figure import Figure

    from tracing.plots.sheet import font_families, panel

    names = list(average.effects)
    figure = Figure(figsize=(2.1 * len(names) + 1.2, 5.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.0, 1.35), squeeze=False)[:, 0]
    grids = [np.stack([average.mean(name, category) for category in CATEGORIES]) for name in names]
    everything = np.concatenate(grids)
    fonts = font_families([average.model_name])
    for index, axes in enumerate(upper.subplots(1, len(names), squeeze=False)[0]):
        name, grid = names[index], grids[index]
        rows = list(CATEGORY_NAMES.values()) if index == 0 else []
        panel(upper, axes, grid, BY_SITE[site_of(name)], rows, "AIE", fonts, everything)
        axes.set_title(_map_words(name, window).replace(", ", ",\n"), fontsize=FONT, fontfamily=fonts)
        axes.set_xlabel("layer", fontsize=FONT, fontfamily=fonts)
    rows_drawn: tuple[Category, ...] = ("last_subject", "last_token")
    for axes, category in zip(lower.subplots(1, 2, sharey=True), rows_drawn, strict=True):
        for name, colour in zip(names, LINES, strict=False):
            mean, (low, high) = average.mean(name, category), average.ci(name, category)
            layers = np.arange(len(mean))
            style = "--" if "severed" in name else "-"  # severed curves often coincide with the plain one
            axes.plot(layers, mean, style, color=colour, marker="o", markersize=3, label=_map_words(name, window))
            axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0.0, **ZERO)
        where = f"{CATEGORY_NAMES[category]} (n = {average.n(names[0], category)})"
        _dress(axes, fonts, where, "layer", "mean indirect effect on p(answer)")
        axes.set_xticks(layer_ticks(average.effects[names[0]].shape[2]))
    handles = lower.axes[0].get_legend_handles_labels()
    lower.legend(*handles, loc="outside lower center", ncols=len(names), prop={"family": fonts, "size": FONT - 1})
    figure.suptitle(average_title(average), fontsize=FONT + 1, fontfamily=fonts)
    return figure


def _map_words(name: str, window: int) -> str:
    """A map's title, with its window where it has one."""
    windowed = name in SITES and name != "resid_post" and window > 1
    return f"{map_title(name)}, window of {window}" if windowed else map_title(name)


def _dress(axes: Axes, fonts: list[str], title: str, x: str, y: str) -> None:
    """Titles of the panel and its axes."""
    axes.set_title(title, fontsize=FONT + 1, fontfamily=fonts)
    axes.set_xlabel(x, fontsize=FONT, fontfamily=fonts)
    axes.set_ylabel(y, fontsize=FONT, fontfamily=fonts)
    axes.tick_params(labelsize=FONT - 1, labelfontfamily=fonts)


def sweep_figure(table: pd.DataFrame, effect: Array, success: Array, fit: Regression, method: str) -> Figure:
    """Left: tracing effect and edit success by layer, with 95 % bands.  Right: both minus their layer's mean.

    Args:
        table: of `layer_sweep.by_layer`.
        effect, success: [fact, layer].
    """
    from matplotlib.figure import Figure

    from experiments.studies.parts.regression import FEWEST
    from tracing.plots.sheet import font_families

    fonts = font_families([method])
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = {"effect": "tracing effect", "rewrite": "rewrite score", "neighborhood": "neighbours kept"}
    for (name, words), colour in zip(curves.items(), LINES, strict=False):
        left.plot(table["layer"], table[name], color=colour, marker="o", markersize=3, label=words)
        low, high = (table[f"{name}_{end}"].astype(float) for end in ("low", "high"))
        left.fill_between(table["layer"], low, high, color=colour, alpha=0.15, linewidth=0)
    left.axhline(0.0, **ZERO)
    _dress(left, fonts, f"{method}, {len(effect)} facts", "layer", "mean over facts")
    left.legend(prop={"family": fonts, "size": FONT - 1})
    x, y = effect - effect.mean(axis=0), success - success.mean(axis=0)
    right.scatter(x.ravel(), y.ravel(), s=5, color="0.4", alpha=0.5, linewidth=0)
    ends = np.array([x.min(), x.max()])
    right.plot(ends, fit.slope * ends, color=LINES[2])
    _dress(
        right,
        fonts,
        f"R² {fit.r2_layers:.3f} by layer, {fit.r2_both:.3f} with tracing"
        if fit.n_facts >= FEWEST
        else f"{fit.n_facts} facts: too few for R²",
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

    from tracing.plots.sheet import font_families

    fonts = font_families(averages)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.4))
    places = np.arange(len(table))
    errors = np.abs(np.stack([table["ate"] - table["ate_low"], table["ate_high"] - table["ate"]]))
    left.errorbar(table["ate"], places, xerr=errors, fmt="o", markersize=4, color=LINES[0], linewidth=1)
    left.set_yticks(places, table["way"], fontfamily=fonts)
    left.invert_yaxis()
    _dress(left, fonts, f"{table['n'].iloc[0]} facts", "average total effect on p(answer)", "")
    left.axvline(0.0, **ZERO)
    for index, (way, average) in enumerate(averages.items()):
        if abs(average.ate) < 0.02:  # a share of almost nothing is noise
            continue
        share = average.last_subject() / average.ate
        style = ("-", "--", ":")[index // len(LINES)]
        right.plot(share, style, color=LINES[index % len(LINES)], marker="o", markersize=3, label=way)
    right.axhline(0.0, **ZERO)
    _dress(right, fonts, "Last subject token", "layer", "share of the total effect restored")
    right.legend(prop={"family": fonts, "size": FONT - 1.5})
    return figure


def collapse_figure(table: pd.DataFrame) -> Figure:
    """Success of all edits so far and perplexity, over the number of edits, a line a method, with 95 % bands.

    Args:
        table: of `sequential_collapse.curves`.
    """
    from matplotlib.figure import Figure

    from tracing.plots.sheet import font_families

    fonts = font_families(table["method"])
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    panels = {
        "reliability": "Edits that hold",
        "generalization": "Paraphrases",
        "locality": "Neighbours kept",
        "perplexity": "Perplexity of ordinary text",
    }
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for index, (method, part) in enumerate(table.groupby("method", sort=False)):
            colour = LINES[index % len(LINES)]
            # nothing has been edited yet
            measured = part[part[name].notna() & ((part["n_edits"] > 0) | (name in ("perplexity", "locality")))]
            values = measured[name].astype(float)
            axes.plot(measured["n_edits"], values, color=colour, marker="o", markersize=3, label=method)
            if name != "perplexity":
                low, high = measured[f"{name}_low"].astype(float), measured[f"{name}_high"].astype(float)
                axes.fill_between(measured["n_edits"], low, high, color=colour, alpha=0.12, linewidth=0)
        _dress(axes, fonts, title, "edits in a row", "")
        if name == "perplexity":
            levels = table[name].astype(float)
            if levels.max() > DECADE * levels.min():
                axes.set_yscale("log")
        else:
            axes.set_ylim(-0.03, 1.03)
    figure.axes[0].set_ylabel("share of prompts", fontsize=FONT, fontfamily=fonts)
    figure.axes[0].legend(prop={"family": fonts, "size": FONT - 1})
    return figure


def covariance_figure(table: pd.DataFrame, method: str) -> Figure:
    """Left: distances of the second moment, on two log axes.  Right: edit success with each sample, with 95 % bars.

    Args:
        table: of `covariance.by_size`.
    """
    from matplotlib.figure import Figure

    from tracing.plots.sheet import font_families

    fonts = font_families([method])
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    settled = table[table["distance"] > 0]  # distances are measured to the largest sample, whose own is 0
    left.plot(settled["tokens"], settled["distance"], color=LINES[0], marker="o", markersize=3, label="to the largest")
    left.plot(
        table["tokens"],
        table["between_streams"],
        color=LINES[4],
        marker="o",
        markersize=3,
        label="between two streams",
    )
    left.set_yscale("log")
    _dress(left, fonts, "Second moment of the keys", "tokens", "relative distance (Frobenius)")
    names = {"rewrite": "rewrite", "paraphrase": "paraphrases", "neighborhood": "neighbours kept"}
    for (name, words), colour in zip(names.items(), LINES, strict=False):
        known = table[table[name].notna()]
        values = known[name].astype(float)
        ends = np.stack([values - known[f"{name}_low"].astype(float), known[f"{name}_high"].astype(float) - values])
        right.errorbar(known["tokens"], values, yerr=ends, color=colour, marker="o", markersize=3, label=words)
    _dress(right, fonts, f"Edits by {method} (n = {table['rewrite_n'].max()})", "tokens", "score, mean over edits")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.legend(prop={"family": fonts, "size": FONT - 1})
    return figure


def protocols_figure(heads: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """A panel a metric: the nearest number of every protocol, a point a method, with 95 % intervals.

    Args:
        heads: of `methods_by_protocol.headlines`.
    """
    from matplotlib.figure import Figure

    from editing import METHODS
    from tracing.plots.sheet import font_families

    fonts = font_families(heads["method"])
    protocols, methods = list(heads["protocol"].unique()), list(heads["method"].unique())
    figure = Figure(figsize=(10.5, 0.9 + 0.45 * len(protocols)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True), metrics, strict=True):
        for index, method in enumerate(methods):
            part = heads[(heads["metric"] == metric) & (heads["method"] == method) & heads["value"].notna()]
            values, low, high = (part[name].astype(float) for name in ("value", "ci_low", "ci_high"))
            places = [
                protocols.index(protocol) + 0.15 * (index - (len(methods) - 1) / 2) for protocol in part["protocol"]
            ]
            ends = np.stack([(values - low).fillna(0.0), (high - values).fillna(0.0)])
            colour = LINES[index % len(LINES)]
            axes.errorbar(values, places, xerr=ends, fmt="o", markersize=3, color=colour, linewidth=1, label=method)
        _dress(axes, fonts, metric.capitalize(), "share", "")
        axes.set_xlim(-0.03, 1.03)
    figure.axes[0].set_yticks(range(len(protocols)), protocols, fontfamily=fonts)
    figure.axes[0].set_ylim(len(protocols) - 0.5, -0.5)
    handles, shown = figure.axes[0].get_legend_handles_labels()
    font = {"family": fonts, "size": FONT - 1}
    figure.legend(handles, [METHODS[name].title for name in shown], loc="outside lower center", ncols=6, prop=font)
    return figure


def card_figure(card: Mapping[str, Any]) -> Figure:
    """Left: an edit's score and its parts by layer, with the recommended layer.  Right: indirect effects and the inner
    product of gradients by layer, each as a share of its largest, with 95 % bands.

    Args:
        card: of `layer_card.card_values`.
    """
    from matplotlib.figure import Figure

    from tracing.plots.sheet import font_families

    fonts = font_families([card["method"]])
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows, best = card["layers"], card["recommended"]
    layers = [row["layer"] for row in rows]
    scores = np.array([row["score"] for row in rows])
    ends = np.abs(np.array([row["interval"] for row in rows]).T - scores)
    left.errorbar(layers, scores, yerr=ends, color=LINES[0], marker="o", markersize=4, linewidth=1.5, label="score")
    parts = {"reliability": "edit prompt", "paraphrase": "paraphrases", "neighborhood": "neighbours kept"}
    for (name, words), colour in zip(parts.items(), LINES[1:], strict=False):
        left.plot(
            layers,
            [np.nan if row[name] is None else row[name] for row in rows],
            color=colour,
            linewidth=0.8,
            marker=".",
            label=words,
        )
    for axes in (left, right):
        axes.axvline(best["layer"], color="0.6", linewidth=0.8, linestyle=":")
    left.set_ylim(-0.03, 1.03)
    left.set_xticks(layers)
    verdict = "stands out" if best["stands_out"] else "middle of the tied"
    _dress(left, fonts, f"{card['method']}, {card['n']} facts: layer {best['layer']}, {verdict}", "layer", "mean")
    left.legend(prop={"family": fonts, "size": FONT - 2})
    names = {"resid_post": "states", "mlp_out": f"MLP outputs, window of {card['window']}", "gradient": "gradients"}
    for (name, words), colour in zip(names.items(), LINES, strict=False):
        mean, low, high = (np.array(card["effects"][name][part]) for part in ("mean", "low", "high"))
        most = np.abs(mean).max() or 1.0
        right.plot(mean / most, color=colour, marker="o", markersize=2, label=words)
        right.fill_between(np.arange(len(mean)), low / most, high / most, color=colour, alpha=0.15, linewidth=0)
    right.axhline(0.0, **ZERO)
    right.set_xticks(layer_ticks(len(card["effects"]["resid_post"]["mean"])))
    _dress(right, fonts, "Traces and gradients at the last subject token", "layer", "share of the largest")
    right.legend(prop={"family": fonts, "size": FONT - 2})
    return figure


def published_figure(table: pd.DataFrame) -> Figure:
    """Every score that was measured, with its 95 % interval, and a cross where one was published.

    Args:
        table: of `rome_table.beside`.
    """
    from matplotlib.figure import Figure

    from tracing.plots.sheet import font_families

    part = table[(table["unit"] == "share") & (table["ours"].notna() | table["published"].notna())]
    fonts = font_families(part["method"])
    figure = Figure(figsize=(6.0, 1.2 + 0.22 * len(part)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(part))
    ours, low, high, published = (part[name].astype(float) for name in ("ours", "ci_low", "ci_high", "published"))
    ends = np.stack([(ours - low).fillna(0.0), (high - ours).fillna(0.0)])
    axes.errorbar(ours, places, xerr=ends, fmt="o", markersize=4, color=LINES[0], linewidth=1, label="ours")
    axes.plot(published, places, "x", markersize=6, color=LINES[1], label="published")
    when = np.where(part["before"], "before", "after")
    names = [" ".join(words) for words in zip(part["method"], part["protocol"], part["name"], when, strict=True)]
    axes.set_yticks(places, names, fontfamily=fonts)
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    _dress(axes, fonts, "Published scores beside ours", "share", "")
    axes.legend(prop={"family": fonts, "size": FONT - 1})
    return figure
