"""How the Workbench is laid out: close enough that map, edit and five metrics stand on one screen."""

STYLE = """<style>
.st-key-workbench h1 { font-size: 1rem; font-weight: 400; line-height: 1.35; margin: 0; padding: 0 }
.st-key-workbench h1 b { font-weight: 700; font-size: 1.15rem; margin-right: 0.35rem }
.st-key-tiles [data-testid=stMetric] > div { display: flex; flex-wrap: wrap; align-items: baseline; column-gap: 0.5rem }
.st-key-tiles [data-testid=stMetricLabel] { width: 100%; min-height: 1.3rem }
.st-key-tiles [data-testid=stMetricValue] { font-size: 1.25rem; line-height: 1.3; width: auto }
.st-key-tiles [data-testid=stMetricDelta] { margin: 0 }
.st-key-tiles [data-testid=stCaptionContainer] p { font-size: 0.78rem; line-height: 1.35 }
/* the form says how long a text may be; Streamlit counts to what it would drop silently */
.st-key-workbench .stTextInput [data-testid=InputInstructions] { display: none }
.st-key-method { min-width: min(20rem, 100%) }
.st-key-trace_tabs { position: relative }
[data-testid=stLayoutWrapper]:has(> .st-key-trace_view) { position: absolute; right: 0; top: -0.2rem; width: auto }
.st-key-edited_view { position: fixed; z-index: 999991; top: 0.6rem; right: 9rem; width: auto; max-width: 52vw }
.edited-view { font-size: 0.88rem; padding: 0.3rem 0.8rem; border-radius: 8px; background: #fff1d6; color: #5c3a00;
  border: 1px solid #d79a2b; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
dl.said { display: grid; grid-template-columns: auto 1fr; gap: 0 0.6rem; margin: 0; padding: 0; font-size: 0.88rem;
  line-height: 1.5 }
.said dt, .said dd { margin: 0; padding: 0 }
.said dt { color: color-mix(in srgb, currentColor 78%, transparent) }
mark { background: color-mix(in srgb, #f2b134 45%, transparent); color: inherit; border-radius: 3px; padding: 0 1px }
@media (max-width: 900px) {
  .st-key-edited_view { position: static; max-width: 100% }
  .edited-view { white-space: normal }
}
</style>"""
STALE = """<style>
.st-key-trace_results [data-testid=stPlotlyChart], .st-key-trace_results dl.line { opacity: 0.45; filter: grayscale(1) }
</style>"""
"""Over the map of inputs that have changed since."""
