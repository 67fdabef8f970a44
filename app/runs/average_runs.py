"""Traces of a session averaged over their facts, by kind of token, as in the figures of Meng et al. 2022.

A fact counts once: traces of one prompt that differ in their noise draws are averaged before facts are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.session.run import SITES, EditRun, Run, TraceRun
from tracing.sites import site_of

if TYPE_CHECKING:
    from tracing.average import AverageEffects

MAY_DIFFER = ("seed", "counterfactual", "against")
"""Settings that belong to one fact."""


def why_not(runs: Sequence[Run]) -> str:
    """Why these runs cannot be averaged; empty if they can."""
    edits = sum(isinstance(run, EditRun) for run in runs)
    if edits:
        are = "is an edit" if edits == 1 else "are edits"
        return (
            f"{edits} of these {len(runs)} runs {are}, and only traces are averaged; tick traces alone, or two edits "
            "to compare them."
        )
    traces = _traces(runs)
    if len({(run.model, run.revision) for run in traces}) > 1:
        return "These traces are of different models; choose those of one model."
    if len({run.measure for run in traces}) > 1:
        measures = " and ".join(sorted({run.measure.replace("_", " ") for run in traces}))
        return f"These traces show {measures}, which cannot be averaged; choose those of one measure."
    if len({len(run.effect[0]) for run in traces}) > 1:
        return "These traces have different numbers of layers; choose those of one model."
    for name, of_map in _by_map(traces).items():
        for setting in (key for key in of_map[0].settings if key not in MAY_DIFFER):
            values = sorted({run.settings.get(setting, "-") for run in of_map})
            if len(values) > 1:
                return (
                    f"The traces of {SITES[site_of(name)]} were made with different values of "
                    f"{setting.replace('_', ' ')}, {' and '.join(values)}; choose those of one value."
                )
    return ""


def average(runs: Sequence[Run]) -> AverageEffects:
    """The mean over facts of runs that `why_not` allows; a fact without one of the maps counts in the others."""
    from tracing.average import AverageEffects
    from tracing.statistics import nan_mean
    from tracing.types import CATEGORIES

    traces = _traces(runs)
    facts: dict[tuple[str, str], list[TraceRun]] = {}
    for run in traces:
        facts.setdefault((run.prompt, run.subject), []).append(run)
    missing = np.full((len(CATEGORIES), len(traces[0].effect[0])), math.nan)
    effects = {}
    for name, of_map in _by_map(traces).items():
        by_fact = [[_rows(run) for run in ours if run in of_map] or [missing] for ours in facts.values()]
        effects[name] = np.stack([nan_mean(rows) for rows in by_fact]).astype(np.float32)
    return AverageEffects(
        configs=(),
        model_name=traces[0].model,
        revision=traces[0].revision,
        noise_std=math.nan,
        noise_source=f"noise {traces[0].settings.get('noise', '?')} σ",
        prompts=tuple(prompt for prompt, _ in facts),
        unknown=(),
        unaligned=(),
        clean=np.array([np.mean([run.clean for run in ours]) for ours in facts.values()], dtype=np.float32),
        corrupted=np.array([np.mean([run.corrupted for run in ours]) for ours in facts.values()], dtype=np.float32),
        effects=effects,
    )


def _traces(runs: Sequence[Run]) -> list[TraceRun]:
    return [run for run in runs if isinstance(run, TraceRun)]


def _by_map(traces: Sequence[TraceRun]) -> dict[str, list[TraceRun]]:
    """By the names of `tracing.average.map_name`, in the order of `SITES`."""
    by_map: dict[str, list[TraceRun]] = {}
    for run in sorted(traces, key=lambda run: list(SITES).index(run.site)):
        severed = run.settings.get("severed", "null")
        by_map.setdefault(run.site if severed == "null" else f"{run.site}, {severed} severed", []).append(run)
    return by_map


def _rows(run: TraceRun) -> NDArray[np.float64]:
    """[category, layer], as `tracing.average.by_category`."""
    from tracing.average import category_positions
    from tracing.statistics import nan_mean

    effect = np.array(run.effect)
    positions = category_positions(run)  # type: ignore[arg-type]  # it asks for the tokens and the span alone
    return np.stack([nan_mean(effect[list(group)]) for group in positions])
