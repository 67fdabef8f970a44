"""Causal tracing: which states carry a fact?  Meng et al. 2022 (arXiv:2202.05262).

Names are imported when first used, so that `tracing.types`, `tracing.plots.labels` and `tracing.plots.maps` can be had
without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracing.average import AverageEffects
    from tracing.config import TraceConfig
    from tracing.corruption import NoiseLevel, measure_noise
    from tracing.counterfactuals import suggest_counterfactuals
    from tracing.engine.averaging import average_effects
    from tracing.engine.memory import TraceMemoryError
    from tracing.engine.several import trace_facts
    from tracing.engine.tracer import causal_trace, refine_trace, trace_all, trace_sites
    from tracing.lenses.attribution import AttributionResult, attribution_patching
    from tracing.lenses.knockout import KnockoutResult, attention_knockout
    from tracing.lenses.logit import LensResult, logit_lens
    from tracing.lenses.neurons import NeuronAttribution, attribute_neurons
    from tracing.lenses.paths import PathResult, path_patching
    from tracing.lenses.tuned import TunedLens, fit_tuned_lens, tuned_lens
    from tracing.types import TraceResult

HOMES = {
    "AttributionResult": "lenses.attribution",
    "AverageEffects": "average",
    "KnockoutResult": "lenses.knockout",
    "LensResult": "lenses.logit",
    "NeuronAttribution": "lenses.neurons",
    "NoiseLevel": "corruption",
    "PathResult": "lenses.paths",
    "TraceConfig": "config",
    "TraceMemoryError": "engine.memory",
    "TraceResult": "types",
    "TunedLens": "lenses.tuned",
    "attention_knockout": "lenses.knockout",
    "attribute_neurons": "lenses.neurons",
    "attribution_patching": "lenses.attribution",
    "average_effects": "engine.averaging",
    "causal_trace": "engine.tracer",
    "fit_tuned_lens": "lenses.tuned",
    "logit_lens": "lenses.logit",
    "measure_noise": "corruption",
    "path_patching": "lenses.paths",
    "suggest_counterfactuals": "counterfactuals",
    "refine_trace": "engine.tracer",
    "trace_all": "engine.tracer",
    "trace_facts": "engine.several",
    "trace_sites": "engine.tracer",
    "tuned_lens": "lenses.tuned",
}

__all__ = [
    "AttributionResult",
    "AverageEffects",
    "KnockoutResult",
    "LensResult",
    "NeuronAttribution",
    "NoiseLevel",
    "PathResult",
    "TraceConfig",
    "TraceMemoryError",
    "TraceResult",
    "TunedLens",
    "attention_knockout",
    "attribute_neurons",
    "attribution_patching",
    "average_effects",
    "causal_trace",
    "fit_tuned_lens",
    "logit_lens",
    "measure_noise",
    "path_patching",
    "refine_trace",
    "suggest_counterfactuals",
    "trace_all",
    "trace_facts",
    "trace_sites",
    "tuned_lens",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'tracing' has no attribute {name!r}")
    return getattr(import_module(f"tracing.{HOMES[name]}"), name)
