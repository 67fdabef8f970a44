"""How a result of `python -m tracing` shows itself: its table and its figures, by what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tracing.cli import tables
from tracing.sites import SITE_NAMES
from tracing.types import TraceResult


@dataclass(frozen=True, eq=False)
class Output:
    """A result with its table and its figures."""

    result: Any
    """With to_json, to_frame and save."""
    table: str
    chart: Callable[[], Any] | None = None
    """The figure for the screen."""
    figure: Callable[..., Any] | None = None
    """The figure for print; takes `width_in` if a width was given."""
    styled: bool = False
    """Whether `figure` and `bundle` take `style`, a `tracing.plots.paper.FigureStyle`."""
    bundle: Callable[..., bytes] | None = None
    """The figure with everything around it as a zip."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Several traces as the result of a command."""

    results: tuple[TraceResult, ...]

    @property
    def main(self) -> TraceResult:
        """The map an edit looks at: the MLP's if there is one."""
        return next((result for result in self.results if result.config.site == "mlp_out"), self.results[0])

    def to_frame(self) -> pd.DataFrame:
        """The tables one below the other; the column `site` tells them apart."""
        return pd.concat([result.to_frame() for result in self.results], ignore_index=True)

    def to_json(self) -> str:
        """A list of the traces."""
        return "[" + ",\n".join(result.to_json() for result in self.results) + "]"

    def save(self, path: str) -> None:
        """Write a file for each map: maps.npz becomes maps-state.npz, maps-mlp.npz and maps-attn.npz."""
        for result in self.results:
            name = Path(path)
            result.save(name.with_stem(f"{name.stem}-{SITE_NAMES[result.config.site].code}"))


@dataclass(frozen=True, eq=False)
class Table:
    """A table as the result of a command."""

    frame: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.frame

    def to_json(self) -> str:
        """One object a row."""
        return str(self.frame.to_json(orient="records", force_ascii=False, indent=1))


def shown(result: Any) -> Output:
    """A result with its table and its figures."""
    from tracing.plots import bundle, maps, paper
    from tracing.plots import lenses as lens_plots

    name = type(result).__name__
    if name == "NeuronAttribution":  # tens of thousands of columns do not fit a figure
        return Output(result, tables.neurons_table(result))
    heads = name in ("TraceResult", "AttributionResult") and result.config.site == "attn_heads"
    draws: dict[str, tuple[Any, ...]] = {
        "TraceResult": (tables.trace_table, maps.trace_heatmap, paper.trace_figure),
        "LensResult": (tables.lens_table, lens_plots.lens_chart, lens_plots.lens_figure),
        "KnockoutResult": (tables.knockout_table, lens_plots.knockout_chart, lens_plots.knockout_figure),
        "AttributionResult": (tables.attribution_table, lens_plots.attribution_chart, lens_plots.attribution_figure),
        "PathResult": (tables.paths_table, lens_plots.paths_chart, lens_plots.paths_figure),
        "AverageEffects": (tables.average_table, maps.average_chart, paper.average_figure),
    }
    table, chart, figure = draws[name]
    if heads:
        chart, figure = lens_plots.heads_chart, lens_plots.heads_figure
    output = Output(result, table(result), lambda: chart(result), lambda **how: figure(result, **how))
    if name == "TraceResult" and not heads:
        return replace(output, styled=True, bundle=lambda **how: bundle.trace_bundle([result], **how))
    if name == "AverageEffects":
        return replace(output, styled=True, bundle=lambda **how: bundle.average_bundle(result, **how))
    return output


def shown_maps(maps: Maps) -> Output:
    """Several maps of one prompt in one figure."""
    from tracing.plots import bundle, paper
    from tracing.plots.maps import trace_heatmap

    paper.same_question(maps.results)
    return Output(
        maps,
        "\n\n".join(map(tables.trace_table, maps.results)),
        lambda: trace_heatmap(maps.main),
        lambda **how: paper.panels_figure(maps.results, **how),
        styled=True,
        bundle=lambda **how: bundle.trace_bundle(maps.results, **how),
    )


def shown_difference(maps: Maps) -> Output:
    """Two maps and their difference.

    Raises:
        ValueError: if there are not two, or no cell of one has a partner in the other.
    """
    from tracing.plots import paper
    from tracing.plots.maps import trace_heatmap

    if len(maps.results) != 2:
        raise ValueError(f"a difference is of two maps; {len(maps.results)} were named")
    first, second = paper.comparable(*maps.results)
    change, _ = paper.difference(first.own_words(), second.own_words())
    return Output(
        maps,
        tables.difference_table(first, second, change),
        lambda: trace_heatmap(first),
        lambda **how: paper.difference_figure(first, second, **how),
        styled=True,
    )
