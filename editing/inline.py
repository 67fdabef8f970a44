"""How a notebook shows an edit: what it rewrites, its diagnostics, and its loss by step."""

from __future__ import annotations

import html
from collections.abc import Sequence

CURVE = (220, 48)
"""Pixels of the curve of the loss."""


def edit_bundle(title: str, rows: Sequence[tuple[str, str]], losses: Sequence[float]) -> dict[str, str]:
    """An edit as plain text and as HTML.

    Args:
        rows: (name, value) of everything that is said.
        losses: the objective before each step; empty for methods that do not search.
    """
    width = max((len(name) for name, _ in rows), default=0)
    text = "\n".join([title, *(f"{name:<{width}}  {value}" for name, value in rows)])
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return {
        "text/plain": text,
        "text/html": f"<p><b>{html.escape(title)}</b></p><table>{cells}</table>{_curve(losses)}",
    }


def _curve(losses: Sequence[float]) -> str:
    """The loss by step as a line from left to right; nothing for fewer than two steps."""
    if len(losses) < 2:
        return ""
    width, height = CURVE
    low, high = min(losses), max(losses)
    across, down = (width - 8) / (len(losses) - 1), (height - 8) / ((high - low) or 1.0)
    points = " ".join(f"{4 + across * step:.1f},{4 + down * (high - loss):.1f}" for step, loss in enumerate(losses))
    words = f"loss from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} steps"
    return (
        f"<figure><svg width='{width}' height='{height}' role='img' aria-label='{words}'>"
        f"<polyline points='{points}' fill='none' stroke='currentColor' stroke-width='1.5'/></svg>"
        f"<figcaption>{words}</figcaption></figure>"
    )
