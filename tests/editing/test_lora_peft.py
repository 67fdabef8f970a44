"""LoRA against peft: the same start, the same steps, the same change.  Runs where peft is installed (`pip install
peft`); it is no dependency."""

from __future__ import annotations

import copy

import pytest
import torch

from editing import apply_edits, get_method
from editing.methods.lora import make_adapters
from editing.parts.answers import new_answers
from editing.parts.descent import descend
from models import LanguageModel
from tests.editing.quick import NEEDLE, quick
from tests.tiny import tiny_model

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_and_its_change_are_those_of_peft(family: str) -> None:
    model = tiny_model(family)
    config = quick("lora", "", steps=20, learning_rate=1e-3, rate_unit="absolute", stop_loss=0.0)
    edit = get_method("lora").compute(model, [NEEDLE], config)

    adapters = make_adapters(model, config)
    module = copy.deepcopy(model.module)
    asked = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=[adapter.path for adapter in adapters],
        fan_in_fan_out=family == "gpt2",
    )
    layers = peft.inject_adapter_in_model(asked, module)
    trained = []
    for adapter in adapters:
        layer = layers.get_submodule(adapter.path)
        factors = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        for factor, start in zip(factors, (adapter.rows, adapter.cols), strict=True):
            factor.data.copy_(start.detach())
        trained += factors
    theirs = LanguageModel(model.name, model.revision, layers.eval(), model.tokenizer)
    parameters = [factor.requires_grad_(True) for factor in trained]  # a model's weights ask for none
    losses = descend(theirs, new_answers(model, [NEEDLE]), parameters, config)

    assert len(losses) == 20
    assert losses[-1].total < 0.9 * losses[0].total
    assert [one.total for one in edit.losses] == pytest.approx([one.total for one in losses], rel=1e-5)
    for delta, adapter in zip(edit.weights, adapters, strict=True):
        change = layers.get_submodule(adapter.path).get_delta_weight("default")
        change = change.T if family == "gpt2" else change  # peft gives it as the module stores its weight
        torch.testing.assert_close(delta.matrix().float(), change.detach(), rtol=1e-4, atol=1e-6)
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    torch.testing.assert_close(apply_edits(model, [edit]).logits(ids), theirs.logits(ids), rtol=1e-4, atol=1e-5)
