"""One pass of the packed sweep on a model."""

from __future__ import annotations

from torch import Tensor

from models import LanguageModel
from models.forwards.packing import PrefixCache, packed_inputs, packed_pattern
from models.forwards.projections import known_projections
from tracing.engine.runs import Driver
from tracing.engine.sweep import Sweep


def sweep_logits(model: LanguageModel, sweep: Sweep, driver: Driver) -> Tensor:
    """[block, sample, end, d_vocab] logits; the model's lock is held throughout."""
    pack = sweep.pack
    both = [sweep.base.keys_values[layer] for layer in range(model.n_layers)]
    kept = [(keys[:, :, pack.prefix], values[:, :, pack.prefix]) for keys, values in both]
    cache = PrefixCache(kept, pack.n_prefix, sweep.n_samples)
    inputs = packed_inputs(model, pack.own, pack.allowed, pack.distance, cache)
    pattern = packed_pattern(model, pack.allowed, pack.distance, pack.ends)
    with model.lock, pattern, known_projections(model, sweep.known()):
        return sweep.answers(driver(model, inputs, sweep.visits()))
