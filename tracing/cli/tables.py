"""Every result as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracing.average import map_name
from tracing.measures import UNITS
from tracing.plots.labels import CATEGORY_NAMES, EFFECTS, average_title, layer_title, map_title, measured, token_labels
from tracing.sites import SITE_NAMES
from tracing.suggestion import best_of, can_show_site, early_site, site_words
from tracing.tokens import token_label
from tracing.types import CATEGORIES, TraceResult

if TYPE_CHECKING:  # these import torch
    from tracing.average import AverageEffects
    from tracing.lenses.attribution import AttributionResult
    from tracing.lenses.knockout import KnockoutResult
    from tracing.lenses.logit import LensResult
    from tracing.lenses.neurons import NeuronAttribution
    from tracing.lenses.paths import PathResult

COLUMNS = 16  # that fit a terminal
LITTLE = 0.05  # a total effect, as a difference of probabilities


def trace_table(result: TraceResult) -> str:
    """Probabilities, corruption, indirect effects by token and layer, the largest of them and what they suggest."""
    result = result.own_words()
    config, corrupted = result.config, float(result.corrupted.mean())
    whose = "" if result.answer_is_greedy else f"; the model answers {token_label(result.predicted.strip())!r}"
    if result.own_answer:
        whose = ", the model's own; the true answer was not given"
    done = f"corrupted with {result.corruption}" if result.corruption else f"noise {result.noise_source}"
    lines = [
        f"model      {result.model_name} ({result.n_layers} layers), revision {result.revision[:12]}",
        f"answer     {token_label(result.answer)!r}{whose}",
        f"subject    {done}" + (f" (sigma {result.noise_std:.4g})" if result.noise_std else ""),
        f"samples    {len(result.corrupted)}, seed {config.seed}",
        f"{measured(result)}  clean {result.clean:.4f}, corrupted {corrupted:.4f}, "
        f"total effect {result.total_effect:.4f} ({UNITS[result.measure]})",
        "",
    ]
    if result.measure == "probability" and result.total_effect < LITTLE:
        lines[5:5] = ["           the corruption takes little away, so the map says little; try a larger --noise"]
    effect = result.indirect_effect
    what = f"{EFFECTS[config.direction]} the {SITE_NAMES[config.site].long}"
    if effect.ndim == 3:
        lines += [f"Indirect effect of {what} at the last token, by head and layer:"]
        lines += grid([f"head {head}" for head in range(effect.shape[2])], effect[-1].T)
    else:
        lines += [f"Indirect effect of {what}, by token (* subject) and {layer_title(result)}:"]
        lines += grid(token_labels(result), effect)
    return "\n".join([*lines, "", *conclusions(result)])


def difference_table(first: TraceResult, second: TraceResult, change: NDArray[np.float32]) -> str:
    """The second map minus the first, by token and layer.

    Args:
        change: [pos, layer].
    """
    pos, layer = np.unravel_index(np.nanargmax(np.abs(change)), change.shape)
    names = token_labels(first.own_words())
    return "\n".join(
        [
            f"total effect {first.total_effect:.4f} in the first, {second.total_effect:.4f} in the second map",
            f"{SITE_NAMES[first.config.site].long}, second minus first, by token (* subject) and layer:",
            *grid(names, change),
            "",
            f"Largest change: {change[pos, layer]:+.4f} at {names[pos]}, layer {layer}",
        ]
    )


def conclusions(result: TraceResult) -> list[str]:
    """The largest effect of a map, the largest at the last subject token, the suggested layer and the early site."""
    last, suggested = result.last_subject(), result.suggestion()
    lines = [f"Largest effect before the last token: {result.largest()}"]
    if last is not None:
        lines.append(f"Largest at the last subject token: {last}")
    lines.append(f"Suggested layer: {'none' if suggested.layer is None else suggested.layer}. {suggested.reason}")
    if site := early_site(result):
        lines.append(site)
    if suggested.layer is not None:
        lines.append(
            "A suggestion only: where a fact is traced to says little about where an edit works best "
            "(Hase et al. 2023, arXiv:2301.04213)."
        )
    return lines


def lens_table(result: LensResult) -> str:
    """At the prompt's last position: every layer's first choices, and the followed words with their ranks."""
    lines = [f"{result.lens} lens of {result.model_name} at the last token of {result.prompt!r}", ""]
    words = [token_label(word) for word in result.words]
    lines.append("layer  " + "".join(f"{f'p({word})':>16}{'rank':>8}" for word in words) + "   first choices")
    for layer in range(result.n_layers):
        cells = "".join(
            f"{result.probability(word)[-1, layer]:>16.4f}{result.rank[word, -1, layer]:>8}"
            for word in range(len(words))
        )
        first = " ".join(token_label(text) for text in result.top_words[-1][layer])
        lines.append(f"{layer:>5}  {cells}   {first}")
    return "\n".join(lines)


def knockout_table(result: KnockoutResult) -> str:
    """Relative change of the answer's probability by edge set and layer."""
    lines = [
        f"Change of p({token_label(result.answer)}) = {result.clean:.4f} in {result.model_name} when attention edges "
        f"are cut in {result.window} layers around each:"
    ]
    return "\n".join(lines + grid(list(result.edges), result.change))


def attribution_table(result: AttributionResult) -> str:
    """The largest estimates."""
    lines = [
        f"ESTIMATED effects on log p({token_label(result.answer)}) in {result.model_name}, in nats, by attribution "
        "patching; not exact, see --verify",
        "",
    ]
    names, site = token_labels(result), SITE_NAMES[result.config.site].long
    for pos, layer, *head in result.top(12):
        where = f"layer {layer}" + (f" head {head[0]}" if head else "")
        lines.append(f"{result.estimate[(pos, layer, *head)]:>9.4f}  {site}, {where}, {names[pos]}")
    return "\n".join(lines)


def neurons_table(result: NeuronAttribution) -> str:
    """The neurons with the largest estimates."""
    lines = [
        f"ESTIMATED effects of neurons on log p({token_label(result.answer)}) in {result.model_name}, in nats, by "
        "attribution patching; not exact, see --verify",
        "",
    ]
    names = token_labels(result)
    for pos, layer, neuron in result.top(12):
        lines.append(f"{result.at(pos, layer, neuron):>9.4f}  layer {layer} neuron {neuron}, {names[pos]}")
    return "\n".join(lines)


def paths_table(result: PathResult) -> str:
    """Effect of each path, the largest first."""
    frame = result.to_frame()
    frame = frame.reindex(frame["effect"].abs().sort_values(ascending=False, kind="stable").index)
    lines = [
        f"Paths from {result.sender} in {result.model_name}; p({token_label(result.answer)}) clean {result.clean:.4f}",
        "",
    ]
    for row in frame.itertuples():
        interval = f"[{row.effect_low:.4f}, {row.effect_high:.4f}]  "
        lines.append(f"{row.effect:>9.4f}  {'' if 'nan' in interval else interval}{row.receiver}")
    return "\n".join(lines)


def average_table(average: AverageEffects) -> str:
    """Average indirect effects by map, token category and layer."""
    low, high = average.ate_ci()
    interval = "too few for an interval" if np.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}"
    lines = [
        f"{average_title(average)}, {interval}",
        f"left out: {average.n_unknown} facts the model does not know, {len(average.unaligned)} without an aligned "
        "counterfactual",
        f"corrupted with {average.noise_source}" + (f" (sigma {average.noise_std:.4g})" if average.noise_std else ""),
    ]
    for name, effects in average.effects.items():
        if effects.ndim == 4:
            rows = average.mean(name, "last_token").T
            lines += ["", f"{map_title(name)}, last token, by head and layer:"]
            lines += grid([f"head {head}" for head in range(len(rows))], rows)
            continue
        lines += ["", f"{map_title(name)}, by token and layer (n of facts):"]
        names = [f"{CATEGORY_NAMES[category]} ({average.n(name, category)})" for category in CATEGORIES]
        lines += grid(names, np.stack([average.mean(name, category) for category in CATEGORIES]))
        lines += _average_site(average, name)
    return "\n".join(lines)


def _average_site(average: AverageEffects, name: str) -> list[str]:
    """The largest average effect at the last subject token, and whether it is early; empty for fewer than 3 facts."""
    values = average.values(name, "last_subject")
    values = values[~np.isnan(values).any(axis=1)]
    config = next(config for config in average.configs if map_name(config) == name)
    if len(values) < 3:
        return []
    best, n_layers = best_of(values, average.ate), values.shape[1]
    lines = [
        "",
        f"Largest at the last subject token: {best.effect:.3f} at layer {best.index} (95 % CI {best.low:.3f} to "
        f"{best.high:.3f}, corrected for {n_layers} layers, n = {len(values)} facts).",
    ]
    if can_show_site(config):
        lines.append(site_words(best.index if best.stands_out else None, n_layers, f"restoring the {map_title(name)}"))
    return lines


def grid(names: Sequence[str], values: NDArray[np.floating]) -> list[str]:
    """[row, layer] numbers with the layers above, in blocks that fit a terminal."""
    width = max(map(len, names)) + 1
    lines = []
    for start in range(0, values.shape[1], COLUMNS):
        layers = range(start, min(start + COLUMNS, values.shape[1]))
        lines += ["", " " * width + "".join(f"{number:>7}" for number in layers)]
        for name, row in zip(names, values, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{row[number]:>7.3f}" for number in layers))
    return lines
