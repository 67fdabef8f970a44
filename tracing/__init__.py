"""Causal tracing: which states carry a fact?  Meng et al. 2022 (arXiv:2202.05262).

Names are imported when first used, so that `tracing.types`, `tracing.labels` and `tracing.plots` can be had without
importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracing.average import AverageEffects, average_effects
    from tracing.corruption import NoiseLevel, measure_noise
    from tracing.tracer import TraceCancelled, causal_trace, trace_sites
    from tracing.types import TraceConfig, TraceResult

HOMES = {
    "AverageEffects": "average",
    "NoiseLevel": "corruption",
    "TraceCancelled": "tracer",
    "TraceConfig": "types",
    "TraceResult": "types",
    "average_effects": "average",
    "causal_trace": "tracer",
    "measure_noise": "corruption",
    "trace_sites": "tracer",
}

__all__ = [
    "AverageEffects",
    "NoiseLevel",
    "TraceCancelled",
    "TraceConfig",
    "TraceResult",
    "average_effects",
    "causal_trace",
    "measure_noise",
    "trace_sites",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'tracing' has no attribute {name!r}")
    return getattr(import_module(f"tracing.{HOMES[name]}"), name)
