"""Edits behind a post-norm, where only the direction of what an MLP returns counts, whatever the residual's size."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import METHODS, apply_edits
from editing.configs import make_config
from editing.edit import Edit
from editing.parts.values import read_start
from models import LanguageModel
from tests.editing.quick import DAVIS, NEEDLE
from tests.editing.test_spread import batches_of
from tests.tiny import build_tiny, tiny_model

POST_NORM = ("gemma2", "gemma3_text", "olmo2")
ROME = replace(NEEDLE, target_new="Rome")
"""An answer of one token, as DAVIS's is: what is written at the prompt's last token can only give the next one."""
SETTINGS: dict[str, Any] = {"second_moment": "identity", "layer": 1, "fact_token": "last"}


def small_outputs(family: str) -> LanguageModel:
    """A tiny model whose MLPs return little against the residual stream, as those of Gemma 3 do (5.2 against 4,527)."""
    changes: dict[str, Any] = {"layer_types": ["full_attention"] * 2} if family == "gemma3_text" else {}
    module, tokenizer = build_tiny(family, num_hidden_layers=2, **changes)
    model = LanguageModel(f"tiny {family}", "0" * 64, module, tokenizer)
    for layer in range(model.n_layers):
        model.key_module(layer).weight.mul_(0.02)
        norm = model.module.get_submodule(f"{model.architecture.block(layer)}.{model.architecture.mlp_norm}")
        norm.weight.add_(2.0)
    return model


def compute(model: LanguageModel, method: str, requests: Any = (ROME,), **settings: Any) -> Edit:
    config = make_config(METHODS[method].config_type, SETTINGS | settings)
    return METHODS[method].compute(model, requests, config)


@pytest.mark.parametrize("method", ["r-rome", "rome"])
@pytest.mark.parametrize("family", POST_NORM)
def test_the_default_edit_takes_without_wrecking_the_weight(family: str, method: str) -> None:
    edit = compute(small_outputs(family), method)
    numbers = {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics}
    assert numbers["residual norm"] > 5 * numbers["value norm before"]
    assert numbers["p(new) after"] > 0.1 > 50 * numbers["p(new) before"]
    assert numbers["value change"] <= 4 * numbers["value norm before"] * 1.001
    assert numbers["relative change"] < 1


@pytest.mark.parametrize("family", POST_NORM)
def test_the_size_of_what_is_returned_changes_nothing(family: str) -> None:
    """The same model with MLPs that return twice as much: the same search, a change twice as large."""
    small, large = small_outputs(family), small_outputs(family)
    for layer in range(large.n_layers):
        large.key_module(layer).weight.mul_(2.0)
    one, two = (compute(model, "r-rome", steps=5) for model in (small, large))
    for first, second in zip(one.losses, two.losses, strict=True):
        assert second.total == pytest.approx(first.total, rel=1e-3)
    torch.testing.assert_close(2 * one.weights[0].matrix(), two.weights[0].matrix(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("family", POST_NORM)
def test_the_unit_is_what_the_site_can_effect(family: str) -> None:
    model = small_outputs(family)
    config = make_config(METHODS["memit"].config_type, SETTINGS)
    (batch,) = batches_of(model, config, (NEEDLE,))
    start = read_start(model, 1, batch)
    assert start.unit.length == start.value_norm
    plain = read_start(tiny_model("llama"), 1, batches_of(tiny_model("llama"), config, (NEEDLE,))[0])
    assert plain.unit.length == plain.residual_norm


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
@pytest.mark.parametrize("family", POST_NORM)
def test_a_change_is_spread_over_layers(family: str, method: str) -> None:
    """Every layer turns what its MLP returns, by at most twice its length, and the gap closes."""
    model = small_outputs(family)
    free = {"memit": {"moment_weight": 1e-6}, "alphaedit": {"l2": 1e-6, "null_threshold": 2.0}}.get(method, {})
    edit = compute(model, method, (ROME, DAVIS), depth=2, prefixes=0, **free)
    assert len(edit.weights) == 2
    numbers = {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics}
    assert numbers["gap left"] < 0.5
    assert numbers["p(new) after"] > 0.3 > 20 * numbers["p(new) before"]
    view = apply_edits(model, [edit])
    assert view.generate([NEEDLE.fact.prompt], 1) != model.generate([NEEDLE.fact.prompt], 1)


TRAINED: dict[str, dict[str, Any]] = {
    "ft-m": {"layer": 1, "steps": 5},
    "ft-l": {"layer": 1, "steps": 5},
    "lora": {"targets": "mlp", "steps": 5},
    "grace": {"layer": 1, "steps": 5},
    "wise": {"layer": 1, "steps": 5, "prefixes": 1, "irrelevant": 2},
}


def trained(model: LanguageModel, method: str) -> tuple[list[float], torch.Tensor]:
    """The losses of a few steps, and the change: of the weight, of the side weight, or of the value."""
    config = make_config(METHODS[method].config_type, TRAINED[method])
    edit = METHODS[method].compute(model, (ROME,), config)
    op = edit.ops[-1]
    change = op.matrix() if hasattr(op, "matrix") else op.values if hasattr(op, "values") else op.change
    return [loss.total for loss in edit.losses], change.float()


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("family", ["gemma3_text", "olmo2"])
def test_training_behind_a_post_norm_does_not_depend_on_the_size_of_what_is_returned(family: str, method: str) -> None:
    small, large = small_outputs(family), small_outputs(family)
    for layer in range(large.n_layers):
        large.key_module(layer).weight.mul_(4.0)
    (losses, change), (others, larger) = trained(small, method), trained(large, method)
    assert others == pytest.approx(losses, rel=1e-2)
    torch.testing.assert_close(larger, 4 * change, rtol=5e-2, atol=float(change.abs().max()) / 10)


@pytest.mark.parametrize("method", TRAINED)
def test_training_does_not_depend_on_the_size_of_the_stream(method: str) -> None:
    """Everything written to the stream of a pre-norm model times 4: its norms take that out again."""
    small, large = (LanguageModel("tiny llama", "0" * 64, *build_tiny("llama")) for _ in range(2))
    for name, weight in large.module.named_parameters():
        if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
            weight.data.mul_(4.0)
    (losses, change), (others, larger) = trained(small, method), trained(large, method)
    assert others == pytest.approx(losses, rel=1e-2)
    torch.testing.assert_close(larger, 4 * change, rtol=5e-2, atol=float(change.abs().max()) / 10)
