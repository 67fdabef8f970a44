"""Headings of tables: the columns keep their English names, which code and clicks use, and show translated ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.language.say import later, said

HEADINGS = (
    later("run"), later("prompt"), later("subject"), later("change"), later("how"), later("layer"),
    later("largest effect"), later("protocol"), later("model"), later("metric"), later("left"), later("right"),
    later("difference"), later("before"), later("after"), later("before, left"), later("before, right"), later("score"),
    later("number"), later("setting"), later("name"), later("what"), later("done"), later("failed"), later("state"),
    later("planned"), later("row"), later("line"), later("field"), later("reason"), later("cell"), later("method"),
    later("facts"), later("95 % interval"), later("true answer"), later("new answer"), later("probes"), later("notes"),
    later("token"), later("kind"), later("answer"), later("note"), later("value"), later("what it is"), later("unit"),
    later("definition"), later("label"), later("unedited"), later("wanted"), later("trace effect"), later("family"),
    later("what it does"), later("expected"), later("correct"), later("p before"), later("p after"), later("Unedited"),
    later("p(new answer)"),
)  # fmt: skip
"""Those of all tables."""


def headings(columns: Iterable[str], own: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `column_config` of a table.

    Args:
        own: configurations with their own labels, by column.
    """
    return {name: said(name) for name in columns} | (own or {})
