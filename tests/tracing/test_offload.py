"""Weights that accelerate keeps elsewhere until a layer runs: the same numbers, and each layer fetched twice a map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook

from facts import Fact
from models import LanguageModel
from tests.tiny import build_tiny, tiny_model
from tests.tracing.agreement import LEVEL
from tracing import TraceConfig, trace_all
from tracing.engine import plan

FACT = Fact.from_prompt("the Space Needle is in", "Space Needle", "Rome")  # an answer of its own asks for no forward
CONFIGS = [TraceConfig(samples=2), TraceConfig(site="mlp_out", window=2, severed="attn_out", samples=2)]


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neo", "gemma2", "bloom"])
def test_offloaded_weights_change_no_number(family: str, where: str, tmp_path: Path) -> None:
    module, tokenizer = build_tiny(family)
    if where == "memory":
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(module, tmp_path, execution_device=torch.device("cpu"))
    model = LanguageModel("offloaded", "0", module, tokenizer)
    assert next(module.parameters()).device.type == "meta"
    assert model.device.type == "cpu"
    there, here = (trace_all(each, FACT, CONFIGS, level=LEVEL) for each in (model, tiny_model(family)))
    for one, other in zip(there, here, strict=True):
        assert one.engine == other.engine == ("replay" if family == "bloom" else "packed")
        np.testing.assert_array_equal(one.restored, other.restored)


def test_a_map_fetches_every_layer_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the capture and once for the sweep, where one pass is enough."""
    module, tokenizer = build_tiny("gpt2")
    accelerate.disk_offload(module, tmp_path, execution_device=torch.device("cpu"))
    model = LanguageModel("offloaded", "0", module, tokenizer)
    monkeypatch.setattr(plan, "PACK_LIMIT", 100.0)
    config = TraceConfig(samples=2, batch_size=10_000)
    trace_all(model, FACT, [config], level=LEVEL)  # the probe runs at the first trace
    fetched: Counter[int] = Counter()
    fetch = AlignDevicesHook.pre_forward

    def counted(self: AlignDevicesHook, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        fetched[id(module)] += 1
        return fetch(self, module, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", counted)
    trace_all(model, FACT, [config], level=LEVEL)
    blocks = [model.module.get_submodule(model.architecture.key_path(layer)) for layer in range(model.n_layers)]
    assert [fetched[id(block)] for block in blocks] == [2] * model.n_layers
