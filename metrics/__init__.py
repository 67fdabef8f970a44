"""Five metrics of an edit: reliability, generalization, locality, portability and efficiency.

Names are imported when first used, so that a page can read the table of metrics without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.asking.generation import first_sentence, matches
    from metrics.definitions import DEFINITIONS, METRICS
    from metrics.efficiency import peak_memory_bytes, stopwatch
    from metrics.evaluation import evaluate
    from metrics.report import EditReport
    from metrics.summary import SHORT_NAMES, Summary, aggregate
    from metrics.types import (
        PROTOCOL,
        Definition,
        Efficiency,
        Metric,
        PromptRow,
        Reading,
        Score,
        Settings,
        SummaryScore,
        TextPair,
    )

HOMES = {
    "DEFINITIONS": "definitions",
    "METRICS": "definitions",
    "SHORT_NAMES": "summary",
    "EditReport": "report",
    "Summary": "summary",
    "aggregate": "summary",
    "evaluate": "evaluation",
    "first_sentence": "asking.generation",
    "matches": "asking.generation",
    "peak_memory_bytes": "efficiency",
    "stopwatch": "efficiency",
}
"""Name -> module; all others are in `metrics.types`."""

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "PROTOCOL",
    "SHORT_NAMES",
    "Definition",
    "EditReport",
    "Efficiency",
    "Metric",
    "PromptRow",
    "Reading",
    "Score",
    "Settings",
    "Summary",
    "SummaryScore",
    "TextPair",
    "aggregate",
    "evaluate",
    "first_sentence",
    "matches",
    "peak_memory_bytes",
    "stopwatch",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'metrics' has no attribute {name!r}")
    return getattr(import_module(f"metrics.{HOMES.get(name, 'types')}"), name)
