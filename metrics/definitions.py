"""The table of metrics.  Reports, exports, protocols, commands and pages take the metrics and their numbers from here.

A metric is a file that ends in a `Metric`, and its name in `METRICS`.  Formulas and sources: docs/metrics.md.
"""

from __future__ import annotations

from metrics.behaviour import GENERALIZATION, LOCALITY, PORTABILITY, RELIABILITY
from metrics.efficiency import EFFICIENCY
from metrics.types import Definition, Metric

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (RELIABILITY, GENERALIZATION, LOCALITY, PORTABILITY, EFFICIENCY)
}
"""By name, in the order they are shown."""

PROMPTED: tuple[str, ...] = tuple(name for name, metric in METRICS.items() if metric.prompted)
"""Names of the metrics whose scores come from prompts."""

DEFINITIONS: dict[str, Definition] = {
    f"{name}.{key}": definition for name, metric in METRICS.items() for key, definition in metric.definitions.items()
}
"""By score name, such as "locality.greedy"."""
