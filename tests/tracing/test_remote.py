"""Traces that run elsewhere: serialised, rebuilt without this project's modules, and only saved values come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.schema.request import RequestModel
from nnsight.tracing.util import push

from facts import Fact
from models.forwards.remote import Remote
from tests.tiny import tiny_model
from tests.tracing.agreement import LEVEL
from tracing import TraceConfig, trace_all
from tracing.engine.probe import engine_for

FACT = Fact.from_prompt("The Space Needle is located in the city of", "Space Needle", "Seattle")
CONFIGS = [TraceConfig(samples=2, severed="mlp_out"), TraceConfig(site="attn_heads", samples=2, direction="noising")]


def elsewhere(self: LocalSimulationBackend, tracer: Any) -> None:
    """As a server does: run the rebuilt block with its own copies of everything, and send back what it saved."""
    from nnsight.ndif import pull_env

    pull_env()
    blob = RequestModel.serialize(tracer, compress=False)
    hidden = self._hide_local_modules()
    try:
        rebuilt = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=False)
        rebuilt.execute(rebuilt.info.code)
    finally:
        self._restore(hidden)
    push(tracer.info.frame, {name: rebuilt.info.frame.f_locals[name] for name in ("logits", "noted")})


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon", "opt"])
def test_the_numbers_are_those_of_a_trace_here(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    here = trace_all(model, FACT, CONFIGS, level=LEVEL, engine="replay")
    monkeypatch.setattr(LocalSimulationBackend, "__call__", elsewhere)
    there = trace_all(model, FACT, CONFIGS, level=LEVEL, driver=Remote("local"))
    for one, other in zip(here, there, strict=True):
        assert other.engine == "replay"
        np.testing.assert_allclose(other.restored, one.restored, atol=1e-6)
        np.testing.assert_allclose(other.corrupted, one.corrupted, atol=1e-6)


def test_a_packed_sweep_is_not_sent() -> None:
    model, remote = tiny_model("gpt2"), Remote("local")
    assert engine_for(model, remote) == "replay"
    with pytest.raises(ValueError, match="keeps keys and values here and is not sent; use engine='replay'"):
        trace_all(model, FACT, CONFIGS, level=LEVEL, driver=remote, engine="packed")
