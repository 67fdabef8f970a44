"""Styles that several pages share."""

SUMMARY_STYLE = """
<style>
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px 18px;
  margin: 4px 0 0; padding: 0 }
.numbers div { margin: 0; padding: 0 }
.numbers dt { padding: 0; margin: 0; font-size: 0.84rem; color: color-mix(in srgb, currentColor 78%, transparent) }
.numbers dd { margin: 0; font-size: 1.3rem; line-height: 1.35; font-variant-numeric: tabular-nums }
.numbers dd.note { font-size: 0.8rem; line-height: 1.6; overflow-wrap: anywhere;
  color: color-mix(in srgb, currentColor 78%, transparent) }
</style>
"""
