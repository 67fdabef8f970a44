"""Names, sizes and orientation of every family."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from models import EDITABLE_FAMILIES, FAMILIES, as_out_in
from models.architectures import architecture_named, architecture_of
from tests.tiny import build_tiny, tiny_model

D_MLP = dict.fromkeys(("gpt2", "gpt_bigcode", "gpt_neox", "opt", "phi", "falcon"), 64)
D_MLP |= dict.fromkeys(("gpt_neo", "gptj", "codegen", "bloom", "mpt"), 128)  # they take four times d_model


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_read_off_the_modules(family: str) -> None:
    model = tiny_model(family)
    assert (model.n_layers, model.d_model, model.n_heads, model.d_vocab, model.max_positions) == (4, 32, 4, 384, 64)
    if family in EDITABLE_FAMILIES:
        assert model.d_mlp == D_MLP.get(family, 48)
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.module.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("family", EDITABLE_FAMILIES)
def test_the_named_weight_is_the_key_modules(family: str) -> None:
    model = tiny_model(family)
    for layer in range(model.n_layers):
        weight = model.weight(model.architecture.key_weight_name(layer))
        assert weight is model.key_module(layer).weight
        assert as_out_in(model.key_module(layer), weight).shape == (model.d_model, model.d_mlp)
    assert isinstance(model.module.get_submodule(model.architecture.final_norm), nn.Module)


def test_a_mixture_of_experts_has_no_down_projection() -> None:
    experts = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss", "deepseek_v2", "deepseek_v3"}
    assert set(FAMILIES) - set(EDITABLE_FAMILIES) == experts
    with pytest.raises(ValueError, match="mixtral model is a mixture of experts without one down projection"):
        tiny_model("mixtral").key_module(0)


def test_a_hybrid_with_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="of the granitemoehybrid family only models without experts are supported"):
        architecture_of(build_tiny("granitemoehybrid", num_local_experts=2, num_experts_per_tok=1)[0])


def test_orientation_comes_from_the_type_even_for_a_square_weight() -> None:
    module, _ = build_tiny("gpt2", n_inner=32)
    square = module.get_submodule(architecture_of(module).key_path(0))
    assert isinstance(square, Conv1D)
    assert torch.equal(as_out_in(square, square.weight), square.weight.T)
    linear = nn.Linear(3, 3)
    assert as_out_in(linear, linear.weight) is linear.weight
    key = torch.arange(32.0)
    torch.testing.assert_close(as_out_in(square, square.weight) @ key + square.bias, square(key[None])[0])


def test_unknown_parts_are_named() -> None:
    with pytest.raises(
        ValueError, match="family 'mamba' is not supported; choose a model of one of the 55 families in docs"
    ):
        architecture_named("mamba")
    with pytest.raises(ValueError, match="weight of a LayerNorm has no known orientation"):
        as_out_in(nn.LayerNorm(3), torch.zeros(3))
    with pytest.raises(ValueError, match="has no parameter 'nonsense'"):
        tiny_model("gpt2").weight("nonsense")
    headless = build_tiny("gpt2")[0].transformer
    with pytest.raises(ValueError, match=r"GPT2Model has no part 'transformer\.wte'"):
        architecture_of(headless)


def test_a_sequential_neox_is_not_called_parallel() -> None:
    module, _ = build_tiny("gpt_neox", use_parallel_residual=False)
    assert not architecture_of(module).parallel
    assert tiny_model("gpt_neox").architecture.parallel
