"""The colours of every figure of traces, on paper and on the page, light and dark: heat maps, lines and outlines.

Names of scales are those that Plotly and Matplotlib share.
"""

from __future__ import annotations

from typing import Literal, get_args

ColourScale = Literal["cividis", "rome"]
"""One scale for every site, or the paper's, one for each."""
Palette = Literal["rome", "cividis", "grey"]
"""Of a figure for print: the paper's scale for each site, one for every site, or for a printer without colour."""
Scale = str | list[tuple[float, str]]
"""A scale by name, or (place from 0 to 1, colour)."""

BY_SITE: dict[str, str] = {
    "resid_post": "Purples",
    "mlp_out": "Greens",
    "attn_out": "Reds",
    "attn_heads": "Reds",
}
"""Effects from 0 up, as in Meng et al. 2022, figure 1."""
ANY_SITE = "cividis"
"""Effects from 0 up where sites share a scale, and on a dark page, where scales that begin white glare."""
TWO_SIDED = "PuOr"
"""Orange below 0, white at 0, violet above."""
TWO_SIDED_DARK: Scale = [(0, "#ffb454"), (0.25, "#a5702f"), (0.5, "#151c23"), (0.75, "#6a62a8"), (1, "#cdc6ff")]
"""The same with the dark page's own colour at 0."""
BELOW_ZERO = "orange"
"""What a reader calls the colour of effects below 0."""
PROBABILITY, PROBABILITY_IN_PRINT = "cividis", "Blues"
"""Of a lens."""
ESTIMATE_IN_PRINT = "Purples"
"""Of attribution patching, where no estimate is below 0."""
LINES = ("#6a3d9a", "#1b7837", "#b2182b", "#2166ac", "#e08214", "#4d4d4d", "#a6761d", "#e7298a")
"""Told apart in print and by colour-blind readers; in the order of lines."""
ERROR_BARS = "#4d4d4d"


def heat_scale(site: str | None, *, two_sided: bool, dark: bool = False) -> Scale:
    """The scale of a map of effects.

    Args:
        site: whose states were restored; None where sites share the scale.
        two_sided: whether effects below 0 are noticeable (`tracing.plots.labels.has_two_sides`).
    """
    if two_sided:
        return TWO_SIDED_DARK if dark else TWO_SIDED
    return ANY_SITE if dark or site is None else BY_SITE[site]


def print_scale(site: str, palette: Palette, *, two_sided: bool) -> str:
    """The scale of a map on paper; each gets steadily darker or lighter, or a `BELOW_ZERO_MARK` tells its sides apart.

    Raises:
        ValueError: if there is no such palette.
    """
    if palette not in get_args(Palette):
        raise ValueError(f"unknown palette {palette!r}; choose from {', '.join(get_args(Palette))}")
    if palette == "grey":
        return "Greys"
    if two_sided:
        return TWO_SIDED
    return ANY_SITE if palette == "cividis" else BY_SITE[site]


def ink(dark: bool) -> str:
    """Text of a figure on the page; the theme's own grey is too faint for small print."""
    return "#dfe6ec" if dark else "#2b333b"


def outline(dark: bool) -> str:
    """The outline of the chosen layer."""
    return "#ff5cc8" if dark else "#d6249f"
