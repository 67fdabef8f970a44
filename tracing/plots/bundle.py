"""Everything around a figure in a paper, as one zip: the figure in four formats, LaTeX with a caption to start from,
BibTeX, the numbers and the settings.  The same bytes for the same results."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facts.spreadsheet import defused
from tracing.plots import labels
from tracing.plots.paper import (
    COLUMN,
    PLAIN,
    TWO_COLUMNS,
    FigureStyle,
    average_figure,
    panel_name,
    panels_figure,
    trace_figure,
)
from tracing.plots.sheet import FigureFormat, export, run_record
from tracing.sites import SITE_NAMES
from tracing.types import TraceResult

if TYPE_CHECKING:
    from tracing.average import AverageEffects  # imports torch

REFERENCES = """\
@inproceedings{meng2022locating,
  title     = {Locating and Editing Factual Associations in {GPT}},
  author    = {Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {35},
  year      = {2022},
  note      = {arXiv:2202.05262}
}

@software{engram,
  title  = {Engram: locate a fact in a language model, rewrite it, and measure the rewrite},
  author = {{The Engram authors}},
  year   = {2026},
  note   = {Version 0.1.0}
}
"""
REVISION_DIGITS = 12
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a zip, so that equal contents give equal bytes."""
_TEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def trace_bundle(results: Sequence[TraceResult], *, width_in: float | None = None, style: FigureStyle = PLAIN) -> bytes:
    """A zip with the figure of one map or of several, and one JSON file a map that the page Runs opens.

    Raises:
        ValueError: as `trace_figure` and `panels_figure`.
    """
    if len(results) == 1:
        width = width_in or COLUMN
        figure = trace_figure(results[0], width_in=width, style=style)
    else:
        width = width_in or TWO_COLUMNS
        figure = panels_figure(results, width_in=width, style=style)
    table = pd.concat([result.to_frame() for result in results], ignore_index=True)
    names = ["run.json"] if len(results) == 1 else [f"run-{SITE_NAMES[one.config.site].code}.json" for one in results]
    runs = {name: result.to_json() for name, result in zip(names, results, strict=True)}
    title, record = labels.title(results[0]), run_record(results[0])
    return _packed(figure, width, trace_caption(results, style), table, runs, title=title, record=record)


def average_bundle(average: AverageEffects, *, width_in: float = TWO_COLUMNS, style: FigureStyle = PLAIN) -> bytes:
    """The same for averages over facts.

    Raises:
        ValueError: as `average_figure`.
    """
    figure = average_figure(average, width_in=width_in, style=style)
    runs = {
        "run.json": average.to_json(),
        "facts.csv": str(average.per_fact().map(defused).to_csv(index=False, lineterminator="\n")),
    }
    title = labels.average_title(average)
    caption = average_caption(average, style)
    return _packed(figure, width_in, caption, average.to_frame(), runs, title=title, record=run_record(average))


def trace_caption(results: Sequence[TraceResult], style: FigureStyle = PLAIN) -> str:
    """A caption to start from, in LaTeX: what is shown, the noise, n, seed, model, revision and interval."""
    first = results[0]
    what = f"Effect of {labels.EFFECTS[first.config.direction]} single states on {_tex(labels.measured(first))}"
    shown = [f"({letter}) {_tex(panel_name(one))}" for letter, one in zip(ascii_lowercase, results, strict=False)]
    which = f"{', '.join(shown)}." if len(results) > 1 else f"Restored: {_tex(panel_name(first))}."
    dots = any(one.uncertain().any() for one in results) and style.marks == "dots"
    interval = " Dots: the 95\\,\\% $t$-interval over noise samples includes 0." if dots else ""
    if labels.has_two_sides(np.concatenate([labels.flat(one.own_words()) for one in results])):
        interval += " Dashes: the mean effect is below 0."
    return (
        f"{what} after the prompt ``{_tex(first.prompt)}'' (*: tokens of the subject). {which} {_noise(first)} "
        f"Without restoring: {first.clean:.3f} clean, {float(first.corrupted.mean()):.3f} corrupted.{interval} "
        f"{_model(style.model(first), first.revision)} Causal tracing as by \\citet{{meng2022locating}}, "
        "computed with Engram~\\citep{engram}."
    )


def average_caption(average: AverageEffects, style: FigureStyle = PLAIN) -> str:
    """The same for averages over facts."""
    config, (low, high) = average.configs[0], average.ate_ci()
    dots = " Dots: the 95\\,\\% $t$-interval over facts includes 0." if style.marks == "dots" else ""
    return (
        f"Average indirect effect by kind of token and layer over $n = {average.n_facts}$ facts that the model knows "
        f"({average.n_unknown} others were left out). Average total effect {average.ate:.3f} "
        f"(95\\,\\% interval {low:.3f} to {high:.3f}). Noise: {config.noise:g} times $\\sigma$, "
        f"{config.n_samples} samples a fact, seed {config.seed}.{dots} "
        f"{_model(style.model(average), average.revision)} Causal tracing as by \\citet{{meng2022locating}}, "
        "computed with Engram~\\citep{engram}."
    )


def _noise(result: TraceResult) -> str:
    config = result.config
    how = _tex(result.corruption or f"noise {result.noise_source}").replace(" x ", "~$\\times$~")
    spread = f" ($\\sigma = {result.noise_std:.3g}$)" if result.noise_std else ""
    return f"The subject is corrupted with {how}{spread}; mean of $n = {config.n_samples}$ samples, seed {config.seed}."


def _model(name: str, revision: str) -> str:
    return f"Model: {_tex(name)}, revision \\texttt{{{revision[:REVISION_DIGITS]}}}."


def _tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(_TEX)


def _figure_tex(width_in: float, caption: str) -> str:
    needs = "% Needs \\usepackage{graphicx} and \\usepackage{natbib}; the references are in references.bib.\n"
    if not caption.isascii():
        needs += "% The caption has letters outside ASCII: use XeLaTeX or LuaLaTeX with a font that has them.\n"
    return (
        f"{needs}\\begin{{figure}}[t]\n  \\centering\n  \\includegraphics[width={width_in:g}in]{{figure.pdf}}\n"
        f"  \\caption{{{caption}}}\n  \\label{{fig:trace}}\n\\end{{figure}}\n"
    )


def _packed(
    figure: Figure, width_in: float, caption: str, table: pd.DataFrame, more: dict[str, str], *, title: str, record: str
) -> bytes:
    formats: tuple[FigureFormat, ...] = get_args(FigureFormat)
    files = {f"figure.{fmt}": export(figure, fmt, title=title, record=record) for fmt in formats}
    texts = {"figure.tex": _figure_tex(width_in, caption), "references.bib": REFERENCES}
    texts["values.csv"] = str(table.map(defused).to_csv(index=False, lineterminator="\n"))
    files |= {name: text.encode() for name, text in (texts | more).items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, EARLIEST)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, content)
    return packed.getvalue()
