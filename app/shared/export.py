"""Downloads: the figure for a paper, the numbers, the report, edits.  Each is built when its button is pressed."""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.language.say import ENGLISH, current, later, said, say
from app.server import cache
from app.shared.wording import plain, sentence
from facts.spreadsheet import defused
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from editing import Edit
    from metrics import EditReport
    from tracing import TraceResult
    from tracing.average import AverageEffects
    from tracing.plots.colours import Palette
    from tracing.plots.paper import FigureStyle, Marks
    from tracing.plots.sheet import FigureFormat

WIDTHS: dict[str, float | None] = {
    later("usual: a column for one map, two for several"): None,
    later("3.25 in, one column"): 3.25,
    later("5.5 in, text width"): 5.5,
    later("6.75 in, two columns"): 6.75,
}
FORMATS: dict[FigureFormat, tuple[str, str]] = {
    "svg": ("SVG", "image/svg+xml"),
    "eps": ("EPS", "application/postscript"),
    "png": (later("PNG 300 dpi"), "image/png"),
}
"""Beside PDF: the button and the MIME type."""
PALETTES: dict[Palette, str] = {
    "rome": later("as in ROME"),
    "cividis": later("one for all maps"),
    "grey": later("grey"),
}
MARKS: dict[Marks, str] = {"dots": later("dots: not significant"), "none": later("no marks")}
ALL_PANELS = later("all, one figure")


def trace_panel(results: tuple[TraceResult, ...] | None) -> None:
    """The Export popover beside Run; two clicks from a trace to a PDF."""
    with st.popover(say("Export"), icon=":material/download:", disabled=not results):
        if not results:
            return
        chosen = _chosen(results)
        name = _name(chosen)
        if problem := _cannot_draw(chosen):
            st.caption(plain(said(problem)))
        else:
            _figure_buttons(partial(_figure, chosen), partial(_bundle, chosen), name, "trace_")
        with st.container(horizontal=True):
            _button("CSV", lambda: _csv(_frame(chosen)), f"{name}.csv", "text/csv")
            if len(chosen) == 1:
                _button("JSON", lambda: chosen[0].to_json().encode(), f"{name}.json", "application/json")
                _button("HTML", lambda: _page(chosen[0]), f"{name}.html", "text/html")
        _looks()


def _chosen(results: tuple[TraceResult, ...]) -> tuple[TraceResult, ...]:
    """Draw the choice of the maps to export: one of them, or all in one figure."""
    if len(results) == 1:
        return results
    names = [*(_short(result.config.site) for result in results), ALL_PANELS]
    name = st.selectbox(say("Map"), names, format_func=_shown, key="export_site", persist_state="session")
    return results if name == ALL_PANELS else (results[names.index(name)],)


def _shown(name: str) -> str:
    sites = {names.short.lower(): names.short for names in SITE_NAMES.values()}
    return said(sites[name]) if current() != ENGLISH and name in sites else said(name)


def _cannot_draw(results: Sequence[TraceResult]) -> str:
    """Why no installed font can draw these tokens; empty where all can be drawn."""
    words = [*results[0].tokens, results[0].answer]
    if all(map(str.isascii, words)):
        return ""
    from tracing.plots.labels import title, token_labels
    from tracing.plots.sheet import font_families

    try:
        font_families([*token_labels(results[0]), title(results[0])])
    except ValueError as error:
        return sentence(error)
    return ""


def _figure_buttons(figure: Callable[[FigureFormat], bytes], bundle: Callable[[], bytes], name: str, keys: str) -> None:
    """A figure in every format, and everything that a paper needs around it."""
    _button(later("Figure (PDF)"), partial(figure, "pdf"), f"{name}.pdf", "application/pdf", keys)
    with st.container(horizontal=True):
        for kind, (label, mime) in FORMATS.items():
            _button(label, partial(figure, kind), f"{name}.{kind}", mime, keys)
    _button(later("All for a paper (zip)"), bundle, f"{name}.zip", "application/zip", keys)


def _looks() -> None:
    """Draw the choices of an author; they stay for the session."""
    st.selectbox(say("Figure width"), list(WIDTHS), format_func=said, key="figure_width", persist_state="session")
    with st.container(horizontal=True):
        st.selectbox(
            say("Palette"),
            list(PALETTES),
            format_func=lambda code: said(PALETTES[code]),
            key="figure_palette",
            persist_state="session",
        )
        st.selectbox(
            say("Marks"),
            list(MARKS),
            format_func=lambda code: said(MARKS[code]),
            key="figure_marks",
            persist_state="session",
        )
    st.text_input(say("Title"), key="figure_title", max_chars=120, persist_state="session", placeholder=say("none"))
    st.text_input(
        say("Model’s name"), key="figure_model", max_chars=60, persist_state="session", placeholder=say("as loaded")
    )


def _style() -> FigureStyle:
    from tracing.plots.paper import FigureStyle

    fields = st.session_state
    return FigureStyle(
        fields.get("figure_palette") or "rome",
        fields.get("figure_marks") or "dots",
        (fields.get("figure_title") or "").strip(),
        (fields.get("figure_model") or "").strip(),
    )


def average_buttons(average: AverageEffects) -> None:
    """Averaged maps as a figure for print, and their numbers."""
    _figure_buttons(partial(_average_figure, average), partial(_average_bundle, average), "average", "average_")
    with st.container(horizontal=True):
        _button(later("Means (CSV)"), lambda: _csv(average.to_frame()), "average.csv", "text/csv", "average_")
        _button(later("Every fact (CSV)"), lambda: _csv(average.per_fact()), "facts.csv", "text/csv", "average_")


def _average_figure(average: AverageEffects, kind: FigureFormat) -> bytes:
    from tracing.plots.paper import average_figure
    from tracing.plots.sheet import export

    return export(average_figure(average, style=_style()), kind)


def _average_bundle(average: AverageEffects) -> bytes:
    from tracing.plots.bundle import average_bundle

    return average_bundle(average, style=_style())


def difference_buttons(first: TraceResult, second: TraceResult, names: tuple[str, str] = ("before", "after")) -> None:
    """Two maps and their difference as a figure for print; nothing is drawn where no cell has a partner."""
    with st.container(horizontal=True):
        for kind, (label, mime) in {"pdf": (later("Figure (PDF)"), "application/pdf"), **FORMATS}.items():
            build = partial(_difference, first, second, names, kind)
            _button(label, build, f"difference.{kind}", mime, "difference_")


def _difference(first: TraceResult, second: TraceResult, names: tuple[str, str], kind: FigureFormat) -> bytes:
    from tracing.plots.paper import difference_figure
    from tracing.plots.sheet import export

    return export(difference_figure(first, second, names=names, style=_style()), kind)


def report_panel(report: EditReport) -> None:
    """The report as a file, in four forms."""
    name = _slug(f"report-{report.request.fact.subject}-{report.request.target_new}")
    with st.popover(say("Report"), icon=":material/download:"), st.container(horizontal=True):
        _button("CSV", lambda: report.to_csv().encode(), f"{name}.csv", "text/csv", "report_")
        _button("JSON", lambda: report.to_json().encode(), f"{name}.json", "application/json", "report_")
        _button("LaTeX", lambda: report.to_latex().encode(), f"{name}.tex", "application/x-tex", "report_")
        _button("Markdown", lambda: report.to_markdown().encode(), f"{name}.md", "text/markdown", "report_")


def _button(label: str, build: Callable[[], bytes], name: str, mime: str, prefix: str = "trace_") -> None:
    # on_click="ignore": a download must not re-run the page, and a callable is not called before the click.
    st.download_button(said(label), build, name, mime, key=f"{prefix}{label}", on_click="ignore")


def _figure(results: Sequence[TraceResult], kind: FigureFormat) -> bytes:
    from tracing.plots.paper import figure_bytes

    return figure_bytes(results, kind, width_in=_width(), style=_style())


def _bundle(results: Sequence[TraceResult]) -> bytes:
    from tracing.plots.bundle import trace_bundle

    return trace_bundle(results, width_in=_width(), style=_style())


def _width() -> float | None:
    """Inches; None for the usual width, a column for one map and two columns for several."""
    return WIDTHS[st.session_state.get("figure_width") or next(iter(WIDTHS))]


def _frame(results: Sequence[TraceResult]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([result.to_frame() for result in results], ignore_index=True)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.map(defused).to_csv(index=False).encode("utf-8", "replace")


def _page(result: TraceResult) -> bytes:
    from tracing.plots.maps import heatmap_html

    return heatmap_html(result).encode()


def _name(results: Sequence[TraceResult]) -> str:
    """The beginning of a file's name."""
    what = _short(results[0].config.site) if len(results) == 1 else "panels"
    return _slug(f"trace-{results[0].subject}-{what}")


def _short(site: str) -> str:
    return SITE_NAMES[site].short.lower()


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "-", text).strip("-").lower()


def edit_button(edit: Edit, key: str) -> None:
    """Draw the download of one edit; *Files* reads it back."""
    _button(
        later("Save"),
        lambda: _edit_file(edit),
        f"{_edit_name(edit)}.safetensors",
        "application/octet-stream",
        f"{key}_",
    )


def model_button(keys: tuple[str, ...], model: str) -> None:
    """Button that downloads the edited model as a zipped transformers folder, if all active edits change weights."""
    edits = [edit for edit in map(cache.drawer().get, keys) if edit is not None]
    outside = sorted({edit.method for edit in edits if len(edit.weights) < len(edit.ops)})
    if not edits:
        st.caption(say("Apply an edit to download the edited model."))
    elif outside:
        st.caption(
            say(
                "The active edits of {outside} are not changes of weights, so no model folder can hold "
                "them; save the edits themselves.",
                outside=", ".join(outside),
            )
        )
    else:
        with st.container(horizontal=True):
            _adapter_buttons(edits, model)
        _button(later("Edited model (zip)"), lambda: _model_zip(edits, model), "edited-model.zip", "application/zip")
        st.caption(say("A folder for `AutoModelForCausalLM.from_pretrained`, with the edits written into the weights."))


def _adapter_buttons(edits: list[Edit], model: str) -> None:
    """The active edits as a low-rank adapter, if every one of them is a low-rank change."""
    from editing.ops import WeightDelta
    from models.sources.gguf.adapter import llama_names

    if all(isinstance(op, WeightDelta) for edit in edits for op in edit.ops):
        _button(later("LoRA for peft (zip)"), lambda: _adapter_zip(edits, model), "adapter.zip", "application/zip")
        loaded = cache.shelf().loaded(model)
        try:
            if loaded is not None:
                paths = [op.name.removesuffix(".weight") for edit in edits for op in edit.weights]
                llama_names(loaded.architecture.family, loaded.n_layers, paths)
        except ValueError as problem:
            st.caption(plain(said(sentence(problem))))
            return
        gguf = later("Adapter for llama.cpp (gguf)")
        _button(gguf, lambda: _gguf_adapter(edits, model), "adapter.gguf", "application/octet-stream")


def _adapter_zip(edits: list[Edit], name: str) -> bytes:
    from editing import apply_edits
    from editing.applied.adapter import export_adapter

    with tempfile.TemporaryDirectory() as folder:
        export_adapter(apply_edits(cache.shelf().get(name), edits), Path(folder) / "adapter")
        return _zipped(Path(folder))


def _gguf_adapter(edits: list[Edit], name: str) -> bytes:
    from editing import apply_edits
    from editing.applied.adapter import export_gguf_adapter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        export_gguf_adapter(apply_edits(cache.shelf().get(name), edits), path)
        return path.read_bytes()


def _edit_name(edit: Edit) -> str:
    return _slug(f"edit-{edit.method}-{edit.requests[0].fact.subject}-{edit.requests[0].target_new}")


def _edit_file(edit: Edit) -> bytes:
    from editing import save_edit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        if getattr(edit.config, "corpus", ""):  # do not show the server's path
            edit = dataclasses.replace(edit, config=dataclasses.replace(edit.config, corpus="uploaded text"))
        save_edit(edit, path)
        return path.read_bytes()


def _model_zip(edits: list[Edit], name: str) -> bytes:
    from editing import apply_edits
    from editing.applied.export import export_model

    with tempfile.TemporaryDirectory() as folder:
        export_model(apply_edits(cache.shelf().get(name), edits), Path(folder) / "edited-model")
        return _zipped(Path(folder))


def _zipped(folder: Path) -> bytes:
    """Everything in a folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()
