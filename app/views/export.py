"""Files to take away: the figure for a paper, the numbers, the report.  Each is built when its button is pressed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from metrics import EditReport
    from tracing import TraceResult
    from tracing.plots import FigureFormat

WIDTHS = {"3.25 in, one column": 3.25, "5.5 in, text width": 5.5, "6.75 in, two columns": 6.75}
SHORT_SITES = {"resid_post": "state", "mlp_out": "mlp", "attn_out": "attention"}


def trace_panel(results: tuple[TraceResult, ...] | None) -> None:
    """The Export popover beside Run; two clicks from a trace to a PDF."""
    with st.popover("Export", icon=":material/download:", disabled=not results):
        if not results:
            return
        result = results[0]
        if len(results) > 1:
            sites = [result.config.site for result in results]
            site = st.selectbox(
                "Map", sites, format_func=lambda name: SHORT_SITES[name], key="export_site", persist_state="session"
            )
            result = results[sites.index(site)]
        _button("Figure (PDF)", lambda: _figure(result, "pdf"), _name(result, "pdf"), "application/pdf")
        with st.container(horizontal=True):
            _button("SVG", lambda: _figure(result, "svg"), _name(result, "svg"), "image/svg+xml")
            _button("PNG 300 dpi", lambda: _figure(result, "png"), _name(result, "png"), "image/png")
        with st.container(horizontal=True):
            _button("CSV", lambda: result.to_frame().to_csv(index=False).encode(), _name(result, "csv"), "text/csv")
            _button("JSON", lambda: result.to_json().encode(), _name(result, "json"), "application/json")
            _button("HTML", lambda: _page(result), _name(result, "html"), "text/html")
        st.selectbox("Figure width", list(WIDTHS), key="figure_width", persist_state="session")


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
    from tracing.plots import figure_bytes

    width = WIDTHS[st.session_state.get("figure_width") or next(iter(WIDTHS))]
    return figure_bytes(result, kind, width_in=width)


def _page(result: TraceResult) -> bytes:
    from tracing.plots import heatmap_html

    return heatmap_html(result).encode()


def _name(result: TraceResult, extension: str) -> str:
    return f"{_slug(f'trace-{result.subject}-{SHORT_SITES[result.config.site]}')}.{extension}"


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "-", text).strip("-").lower()
