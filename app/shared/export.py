"""Downloads: the figure for a paper, the numbers, the report, edits.  Each is built when its button is pressed."""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.server import cache
from tracing.sites import SITE_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from editing import Edit
    from metrics import EditReport
    from tracing import TraceResult
    from tracing.average import AverageEffects
    from tracing.plots.maps import FigureFormat

WIDTHS = {"3.25 in, one column": 3.25, "5.5 in, text width": 5.5, "6.75 in, two columns": 6.75}


def trace_panel(results: tuple[TraceResult, ...] | None) -> None:
    """The Export popover beside Run; two clicks from a trace to a PDF."""
    with st.popover("Export", icon=":material/download:", disabled=not results):
        if not results:
            return
        result = results[0]
        if len(results) > 1:
            sites = [result.config.site for result in results]
            site = st.selectbox("Map", sites, format_func=_short, key="export_site", persist_state="session")
            result = results[sites.index(site)]
        _button("Figure (PDF)", lambda: _figure(result, "pdf"), _name(result, "pdf"), "application/pdf")
        with st.container(horizontal=True):
            _button("SVG", lambda: _figure(result, "svg"), _name(result, "svg"), "image/svg+xml")
            _button("PNG 300 dpi", lambda: _figure(result, "png"), _name(result, "png"), "image/png")
        with st.container(horizontal=True):
            _button("CSV", lambda: _csv(result.to_frame()), _name(result, "csv"), "text/csv")
            _button("JSON", lambda: result.to_json().encode(), _name(result, "json"), "application/json")
            _button("HTML", lambda: _page(result), _name(result, "html"), "text/html")
        st.selectbox("Figure width", list(WIDTHS), key="figure_width", persist_state="session")


def average_buttons(average: AverageEffects) -> None:
    """Averaged maps as a figure for print, and their numbers."""
    kinds: dict[FigureFormat, tuple[str, str]] = {
        "pdf": ("Figure (PDF)", "application/pdf"),
        "svg": ("SVG", "image/svg+xml"),
        "png": ("PNG 300 dpi", "image/png"),
    }
    with st.container(horizontal=True):
        for kind, (label, mime) in kinds.items():
            _button(label, partial(_average_figure, average, kind), f"average.{kind}", mime, "average_")
        _button("Means (CSV)", lambda: _csv(average.to_frame()), "average.csv", "text/csv", "average_")
        _button("Every fact (CSV)", lambda: _csv(average.per_fact()), "facts.csv", "text/csv", "average_")


def _average_figure(average: AverageEffects, kind: FigureFormat) -> bytes:
    from tracing.plots.maps import average_figure, export

    return export(average_figure(average), kind)


def report_panel(report: EditReport) -> None:
    """The report as a file, in four forms."""
    name = _slug(f"report-{report.request.fact.subject}-{report.request.target_new}")
    with st.popover("Report", icon=":material/download:"), st.container(horizontal=True):
        _button("CSV", lambda: report.to_csv().encode(), f"{name}.csv", "text/csv", "report_")
        _button("JSON", lambda: report.to_json().encode(), f"{name}.json", "application/json", "report_")
        _button("LaTeX", lambda: report.to_latex().encode(), f"{name}.tex", "application/x-tex", "report_")
        _button("Markdown", lambda: report.to_markdown().encode(), f"{name}.md", "text/markdown", "report_")


def _button(label: str, build: Callable[[], bytes], name: str, mime: str, prefix: str = "trace_") -> None:
    # on_click="ignore": a download must not re-run the page, and a callable is not called before the click.
    st.download_button(label, build, name, mime, key=f"{prefix}{label}", on_click="ignore")


def _figure(result: TraceResult, kind: FigureFormat) -> bytes:
    from tracing.plots.maps import figure_bytes

    width = WIDTHS[st.session_state.get("figure_width") or next(iter(WIDTHS))]
    return figure_bytes(result, kind, width_in=width)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def _page(result: TraceResult) -> bytes:
    from tracing.plots.maps import heatmap_html

    return heatmap_html(result).encode()


def _name(result: TraceResult, extension: str) -> str:
    return f"{_slug(f'trace-{result.subject}-{_short(result.config.site)}')}.{extension}"


def _short(site: str) -> str:
    return SITE_NAMES[site].short.lower()


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "-", text).strip("-").lower()


def edit_button(edit: Edit, key: str) -> None:
    """Draw the download of one edit; *Files* reads it back."""
    _button("Save", lambda: _edit_file(edit), f"{_edit_name(edit)}.safetensors", "application/octet-stream", f"{key}_")


def model_button(keys: tuple[str, ...], model: str) -> None:
    """Button that downloads the edited model as a zipped transformers folder, if all active edits change weights."""
    edits = [edit for edit in map(cache.drawer().get, keys) if edit is not None]
    outside = sorted({edit.method for edit in edits if len(edit.weights) < len(edit.ops)})
    if not edits:
        st.caption("Apply an edit to download the edited model.")
    elif outside:
        st.caption(
            f"The active edits of {', '.join(outside)} are not changes of weights, so no model folder can hold them; "
            "save the edits themselves."
        )
    else:
        _button("Edited model (zip)", lambda: _model_zip(edits, model), "edited-model.zip", "application/zip")
        st.caption("A folder for `AutoModelForCausalLM.from_pretrained`, with the edits written into the weights.")


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
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(Path(folder).rglob("*")):
                archive.write(path, path.relative_to(folder))
        return packed.getvalue()
