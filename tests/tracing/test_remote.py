"""Traces that run elsewhere: serialised, rebuilt without this project's modules, and only saved values come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.schema.request import RequestModel
from nnsight.tracing.util import push

from editing import apply_edits
from editing.ops import WeightDelta
from facts import Fact
from models.remote.driver import Remote
from tests.editing.made import dense, low_rank, made, stated
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


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt"])
def test_edits_of_low_rank_are_sent_along(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    heads = f"{model.architecture.heads_path(2)}.weight"
    rows, cols = torch.randn(2, model.d_model, 1, generator=torch.Generator().manual_seed(3))
    edits = [low_rank(model, 1, 0), low_rank(model, 1, 1), WeightDelta(heads, rows, cols.T)]
    view = apply_edits(model, [made(model, op) for op in edits])
    here = trace_all(view, FACT, CONFIGS, level=LEVEL, engine="replay")
    plain = trace_all(model, FACT, CONFIGS, level=LEVEL, engine="replay")
    monkeypatch.setattr(LocalSimulationBackend, "__call__", elsewhere)
    there = trace_all(view, FACT, CONFIGS, level=LEVEL, driver=Remote("local"))
    for one, other, before in zip(here, there, plain, strict=True):
        assert abs(before.corrupted - one.corrupted).max() > 1e-4, "the edits do something"
        np.testing.assert_allclose(other.restored, one.restored, atol=1e-6)
        np.testing.assert_allclose(other.corrupted, one.corrupted, atol=1e-6)


def test_other_edits_are_refused() -> None:
    model = tiny_model("gpt2")
    inputs = {"input_ids": torch.tensor([[1, 2, 3]])}
    for op in (dense(model, 1, 0), stated(model, "The Space Needle is in Paris.")):
        with pytest.raises(ValueError, match="'rome' is not a change of weights of low rank, so it cannot be sent"):
            Remote("local")(apply_edits(model, [made(model, op)]), inputs, {})
    first = WeightDelta("transformer.h.0.mlp.c_fc.weight", torch.ones(model.d_mlp, 1), torch.ones(1, model.d_model))
    with pytest.raises(
        ValueError, match=r"'transformer\.h\.0\.mlp\.c_fc'; of a hosted model only the output projections"
    ):
        Remote("local")(apply_edits(model, [made(model, first)]), inputs, {})


def test_a_packed_sweep_is_not_sent() -> None:
    model, remote = tiny_model("gpt2"), Remote("local")
    assert engine_for(model, remote) == "replay"
    with pytest.raises(ValueError, match="keeps keys and values here and is not sent; use engine='replay'"):
        trace_all(model, FACT, CONFIGS, level=LEVEL, driver=remote, engine="packed")
