"""What all figures share: size, panel, fonts and file.

A figure for print (Matplotlib) has its own light style, whatever the screen's theme, and exactly the size asked for.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from numpy.typing import NDArray

from tracing.plots import labels
from tracing.plots.colours import TWO_SIDED

FigureFormat = Literal["pdf", "svg", "eps", "png"]
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Serif CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei")
FONT_SIZE = 8.0  # points at final size
PNG_DPI = 300
_saving = threading.Lock()  # Matplotlib reads font type and hash salt from process-wide settings while saving


def page(figure: go.Figure) -> str:
    """A figure for the screen as a self-contained HTML page."""
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    # Only the button that saves a picture: others offer to send the figure away.
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]], "toImageButtonOptions": {"format": "svg"}}
    return str(figure.to_html(include_plotlyjs=True, full_html=True, div_id="trace", config=config))


def run_record(result: Any) -> str:
    """The figure's metadata as JSON: prompt, model, revision, noise and config, as far as the result has them."""
    names = {"prompt": "prompt", "model": "model_name", "revision": "revision", "noise_std": "noise_std"}
    record = {name: getattr(result, field) for name, field in names.items() if hasattr(result, field)}
    if hasattr(result, "config"):
        record |= asdict(result.config)
    return json.dumps(record, sort_keys=True)


def export(figure: Figure, fmt: FigureFormat, *, title: str = "", record: str = "") -> bytes:
    """A figure as PDF, SVG (text as paths), EPS or PNG (300 dpi), exactly its own size, with no date inside.

    Raises:
        ValueError: for an unknown format.
    """
    if fmt not in get_args(FigureFormat):
        raise ValueError(f"unknown figure format {fmt!r}; choose from {', '.join(get_args(FigureFormat))}")
    metadata: dict[FigureFormat, dict[str, str | None]] = {
        "pdf": {"Title": title, "Subject": record, "CreationDate": None},
        "svg": {"Title": title, "Description": record, "Date": None},
        "eps": {"Creator": "Engram"},
        "png": {"Title": title, "Description": record},
    }
    # Poppler warns about CJK fonts embedded as type 42.
    font_type = 3 if any(text.get_fontfamily()[-1] in CJK_FONTS for text in figure.findobj(mpl.text.Text)) else 42
    buffer = io.BytesIO()
    fonts: dict[Any, Any] = {"pdf.fonttype": font_type, "ps.fonttype": font_type, "svg.fonttype": "path"}
    with _saving, mpl.rc_context(fonts | {"svg.hashsalt": "engram"}):
        figure.savefig(buffer, format=fmt, dpi=PNG_DPI, metadata=metadata[fmt], facecolor="white")
    written = buffer.getvalue()
    # Matplotlib has no setting that leaves the date of an EPS out
    return re.sub(rb"(?m)^%%CreationDate: .*\n", b"", written, count=1) if fmt == "eps" else written


def sheet(width_in: float, height_in: float, n_panels: int, *, stacked: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure of exactly this size, with panels side by side, or stacked one above the other."""
    if not 1 <= width_in <= 40:
        raise ValueError(f"width is {width_in} inches; expected 1 to 40 (3.25 for a column)")
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    grid = (n_panels, 1) if stacked else (1, n_panels)
    return figure, figure.subplots(*grid, squeeze=False).ravel().tolist()


def panel(
    figure: Figure,
    axes: Axes,
    effect: NDArray[np.floating],
    colour_map: str,
    names: Sequence[str],
    bar_label: str,
    fonts: list[str],
    all_effects: NDArray[np.floating],
    marked: NDArray[np.bool_] | None = None,
) -> None:
    """One heatmap [row, layer] with its colour bar, its scale that of `all_effects`; rows are labelled by `names`.

    On a scale with two sides, cells that are noticeably below 0 get a dash, which a print without colour keeps.

    Args:
        colour_map: for effects from 0 up; "Greys" also serves a scale with two sides.
        marked: [row, layer], cells that get a dot, such as those whose interval includes 0.
    """
    low, high = labels.colour_range(all_effects.astype(np.float32))
    below = np.zeros(effect.shape, dtype=bool) if low == 0 else effect < labels.noticeable(all_effects)
    # Edges in the face colour: PDF viewers otherwise show white hairlines between cells.
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(effect),
        cmap=TWO_SIDED if low < 0 and colour_map != "Greys" else colour_map,
        vmin=low,
        vmax=high,
        edgecolors="face",
        linewidth=0.2,
    )
    if marked is not None and marked.any():
        y, x = np.nonzero(marked & ~below)
        axes.scatter(x + 0.5, y + 0.5, s=1.5, color="0.5", linewidths=0, zorder=2)  # grey shows on light and dark
    if below.any():
        y, x = np.nonzero(below)
        axes.scatter(x + 0.5, y + 0.5, s=6, marker="_", color="black", linewidths=0.6, zorder=2)
    axes.invert_yaxis()  # the first row on top
    axes.set_facecolor("0.85")  # cells that were not measured
    ticks = labels.layer_ticks(effect.shape[1], 8)
    axes.set_xticks([tick + 0.5 for tick in ticks], [str(tick) for tick in ticks], fontsize=FONT_SIZE - 1)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names, fontsize=FONT_SIZE - 1)
    axes.tick_params(length=2)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    if bar.solids is not None:  # by default a picture in an otherwise drawn file
        bar.solids.set(rasterized=False, edgecolor="face")
    bar.set_label(bar_label, fontsize=FONT_SIZE - 1, fontfamily=fonts)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, length=2)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), *bar.ax.get_yticklabels()]:
        label.set_fontfamily(fonts)


def font_families(texts: Iterable[str]) -> list[str]:
    """Font families that together draw every character: STIX and DejaVu come with Matplotlib, CJK is added if needed.

    Raises:
        ValueError: if a character would come out as a box.
    """
    installed = {font.name for font in fontManager.ttflist}
    families = ["STIXGeneral", "DejaVu Sans"]
    missing = {character for text in texts for character in text if character.isprintable()}
    for family in [*families, *(name for name in CJK_FONTS if name in installed)]:
        drawable = get_font(findfont(FontProperties(family=family))).get_charmap()
        drawn = {character for character in missing if ord(character) in drawable}
        if drawn and family not in families:
            families.append(family)
        missing -= drawn
    if missing:
        raise ValueError(
            f"no installed font can draw {''.join(sorted(missing))!r}; install Noto Sans CJK, or export CSV or HTML"
        )
    return families
