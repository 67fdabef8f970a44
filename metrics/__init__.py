"""Five metrics of an edit: reliability, generalization, locality, portability and efficiency."""

from metrics.aggregate import SHORT_NAMES, Summary, SummaryScore, aggregate
from metrics.asking.generation import first_sentence, matches
from metrics.definitions import DEFINITIONS, METRICS, Definition, MetricInfo
from metrics.efficiency import Efficiency, peak_memory_bytes, stopwatch
from metrics.evaluate import evaluate
from metrics.report import EditReport, TextPair
from metrics.types import PROTOCOL, Metric, PromptRow, Reading, Score, Settings

__all__ = [
    "DEFINITIONS",
    "METRICS",
    "PROTOCOL",
    "SHORT_NAMES",
    "Definition",
    "EditReport",
    "Efficiency",
    "Metric",
    "MetricInfo",
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
