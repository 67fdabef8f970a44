"""`python -m benchmarks.average_tables FILE.npz ...`: saved averages over facts as the tables of docs/real-models.md.

The files are what `python -m tracing average --npz FILE` wrote.  For each kind of token and each map: the layer with
the largest average effect, that effect, and its 95 % interval over facts, corrected for the number of layers.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from tracing.average import AverageEffects, map_name
from tracing.config import TraceConfig
from tracing.plots.labels import CATEGORY_NAMES
from tracing.sites import SITE_NAMES
from tracing.suggestion import best_of
from tracing.types import CATEGORIES, Category

BEFORE_LAST = CATEGORIES[:-1]
"""At the last token a late state restores the answer trivially."""


def tables(average: AverageEffects) -> str:
    """The average as Markdown: what was traced, the largest effects, and how facts differ."""
    low, high = average.ate_ci()
    facts = average.n_facts + average.n_unknown
    lines = [
        f"**{average.model_name}**: {average.n_facts} of {facts} facts known, average P(answer) "
        f"{average.clean.mean():.3f}, total effect {average.ate:.3f} ({low:.3f} to {high:.3f}), "
        f"{average.configs[0].samples} samples, corrupted with {average.noise_source}.",
        "",
        "| token | n | " + " | ".join(_title(config) for config in average.configs) + " |",
        "|---|---|" + "---|" * len(average.configs),
    ]
    names = [map_name(config) for config in average.configs]
    for category in CATEGORIES:
        cells = " | ".join(_largest(average, name, category) for name in names)
        lines.append(f"| {CATEGORY_NAMES[category]} | {average.n(names[0], category)} | {cells} |")
    return "\n".join([*lines, "", *_spread(average, names[0])])


def _title(config: TraceConfig) -> str:
    window = f", windows of {config.window}" if config.window > 1 else ""
    return f"{SITE_NAMES[config.site].long}{window}"


def _largest(average: AverageEffects, name: str, category: Category) -> str:
    """Layer, effect and interval; only a dash for fewer than three facts.

    The last layer's state at the last token is the answer itself, so the first layer with half of the total effect is
    given there.
    """
    values = average.values(name, category)
    if average.n(name, category) < 3:
        return "–"
    if name == "resid_post" and category == "last_token":
        layer = int((average.mean(name, category) >= average.ate / 2).argmax())
        low, high = (float(each[layer]) for each in average.ci(name, category))
        return f"half of the total from {layer}: {average.mean(name, category)[layer]:.3f} ({low:.3f} to {high:.3f})"
    best = best_of(values, average.ate)
    return f"{best.index}: {best.effect:.3f} ({best.low:.3f} to {best.high:.3f})"


def _spread(average: AverageEffects, name: str) -> list[str]:
    """Where single facts have their largest effect, and the effects without one-token subjects."""
    values = average.values(name, "last_subject").astype(np.float64)
    quartiles = np.quantile(values.argmax(1), (0.25, 0.5, 0.75)).round().astype(int)
    one_token = np.isclose(average.values(name, "first_subject"), values, atol=1e-6).all(1)
    effects = np.nan_to_num(average.effects[name][:, : len(BEFORE_LAST)].max(2), nan=-np.inf)
    effects[one_token, 0] = -np.inf  # their only token counts as the last one
    where = [CATEGORIES[index] for index in effects.argmax(1)]
    counts = ", ".join(f"{CATEGORY_NAMES[each].lower()} {where.count(each)}" for each in BEFORE_LAST)
    best = best_of(values[~one_token], average.ate)
    return [
        f"The layer at the last subject token differs from fact to fact: quartiles {quartiles[0]}, {quartiles[1]}, "
        f"{quartiles[2]}. Facts by the token before the last one with the largest effect: {counts}. "
        f"Without subjects of one token (n = {(~one_token).sum()}) the last subject token has {best.effect:.3f} "
        f"({best.low:.3f} to {best.high:.3f}) at layer {best.index}."
    ]


def main() -> int:
    """Print the tables of every file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.average_tables", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    for path in parser.parse_args().files:
        print(tables(AverageEffects.load(path)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
