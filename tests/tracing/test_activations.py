"""The shorter way to GPT-2's activation is the same function."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.activations import GELUTanh, NewGELUActivation

from models.forwards import activations
from models.forwards.activations import fused_activations, tanh_gelu
from tests.tiny import tiny_model


def test_by_hand() -> None:
    # at 1: 0.5 (1 + tanh(sqrt(2 / pi) (1 + 0.044715)))
    expected = 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))
    assert float(tanh_gelu(torch.tensor([1.0]))) == pytest.approx(expected, abs=1e-7)
    assert tanh_gelu(torch.tensor([0.0, -1e20, 1e20])).tolist() == [0.0, 0.0, pytest.approx(1e20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_activation_of_gpt2_to_rounding(dtype: torch.dtype) -> None:
    values = torch.linspace(-12, 12, 10_001, dtype=dtype)
    before = values.clone()
    allowed = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(tanh_gelu(values), NewGELUActivation()(values), atol=allowed, rtol=allowed)
    assert torch.equal(values, before)


@pytest.mark.parametrize("kind", [NewGELUActivation, GELUTanh])
def test_both_ways_to_write_it_are_replaced_and_put_back(
    kind: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setitem(model.submodules, "another", kind())
    module, values = model.submodules["another"], torch.tensor([1.0, -2.0])
    before = module(values)
    monkeypatch.setattr(activations, "tanh_gelu", lambda value: value + 1)
    with model.lock, fused_activations(model):
        assert module(values).tolist() == [2.0, -1.0]
    assert torch.equal(module(values), before)
