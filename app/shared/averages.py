"""Averaged maps: mean effects by kind of token and layer, with n and intervals, all on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from app.language.say import said, say, say_count
from app.shared.wording import plain, short
from tracing.sites import site_of


@dataclass(frozen=True, eq=False)
class AveragedMap:
    """Mean effects over facts."""

    name: str
    """As `tracing.average.map_name` calls it, and the settings that tell it from others of the run."""
    site: str
    mean: NDArray[np.float64]
    """[category, layer]; NaN where no fact has such a token."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """Ends of the 95 % t-interval over facts."""
    n: tuple[int, ...]
    """Facts with such a token, by category."""

    @property
    def uncertain(self) -> NDArray[np.bool_]:
        """[category, layer], where the interval includes 0."""
        return (self.low <= 0) & (self.high >= 0)


def averaged_map(name: str, effects: NDArray[np.float32]) -> AveragedMap:
    """The mean of [fact, category, layer] over facts."""
    from tracing.statistics import interval, nan_mean

    low, high = interval(effects)
    counts = tuple(int(n) for n in (~np.isnan(effects[:, :, 0])).sum(0))
    return AveragedMap(name, site_of(name), nan_mean(effects), low, high, counts)


def facts(n: int, total: tuple[float, float, float] | None) -> str:
    """Over how many facts, and their average total effect (mean, low, high) where there is one."""
    words = say_count("n = {n} fact", "n = {n} facts", n)
    if total is None:
        return words
    mean, low, high = total
    return say(
        "{words}, average total effect {mean}{interval}", words=words, mean=short(mean), interval=_interval(low, high)
    )


def draw(key: str, maps: Sequence[AveragedMap], measure: str = "") -> None:
    """Two maps in a row."""
    from app.shared.plots import EffectMap, effect_maps
    from tracing.plots.labels import CATEGORY_NAMES, map_title

    rows = [said(name) for name in CATEGORY_NAMES.values()]
    figures = effect_maps(
        [
            EffectMap(
                rows,
                one.mean.tolist(),
                _hover(one, rows),
                one.site,
                measure or say("Average indirect effect"),
                one.uncertain,
            )
            for one in maps
        ],
        dark=st.context.theme.type == "dark",
    )
    for start in range(0, len(figures), 2):
        for column, one, figure in zip(
            st.columns(2), maps[start : start + 2], figures[start : start + 2], strict=False
        ):
            with column:
                title = said(map_title(one.name))
                st.markdown(plain(title[:1].upper() + title[1:]))
                st.plotly_chart(
                    figure,
                    key=f"{key}_{one.name}",
                    config={"displayModeBar": False, "doubleClick": False},
                    alt=_sentence(one),
                )


def _interval(low: float, high: float) -> str:
    return say(" (95 % CI {low} to {high})", low=short(low), high=short(high)) if low == low else ""


def _hover(one: AveragedMap, rows: Sequence[str]) -> list[list[str]]:
    return [
        [
            say(
                "layer {layer}, {row}: {value}{interval}, n = {n}",
                layer=layer,
                row=row.lower(),
                value=short(value),
                interval=_interval(low, high),
                n=n,
            )
            for layer, (value, low, high) in enumerate(zip(*bounds, strict=True))
        ]
        for row, n, *bounds in zip(rows, one.n, one.mean, one.low, one.high, strict=True)
    ]


def _sentence(one: AveragedMap) -> str:
    """The map in words: where the last subject token's mean is largest."""
    row = one.mean[2]
    measured = [layer for layer, value in enumerate(row) if value == value]
    if not measured:
        return say("Averaged map of {name}.", name=one.name)
    best = max(measured, key=lambda layer: row[layer])
    return say(
        "Averaged map of {name} over {n} facts. At the last subject token the mean effect is "
        "largest, {effect}, at layer {layer}.",
        name=one.name,
        n=one.n[2],
        effect=short(float(row[best])),
        layer=best,
    )
