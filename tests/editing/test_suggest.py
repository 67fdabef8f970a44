"""Layers to begin with: published ones, a share of the depth, and never a silent MLP."""

import pytest
import torch

from editing import apply_edits
from editing.method import settled
from editing.methods.finetune import FineTuneConfig
from editing.methods.grace import GraceConfig
from editing.methods.memit import MemitConfig
from editing.methods.wise import WiseConfig
from editing.parts.suggest import choose_layer, suggest_layer, suggest_layers
from models import LanguageModel, cards
from models.cards import LayerCard
from models.published import PUBLISHED, PUBLISHED_ONE
from tests.tiny import build_tiny, tiny_model


def model_of(n_layers: int) -> LanguageModel:
    module, tokenizer = build_tiny("gpt2", num_hidden_layers=n_layers)
    return LanguageModel("tiny", "0" * 64, module, tokenizer)


@pytest.mark.parametrize(("n_layers", "expected"), [(4, (0, 1)), (12, (1, 2, 3)), (32, (3, 4, 5, 6, 7, 8))])
def test_a_share_of_the_depth(n_layers: int, expected: tuple[int, ...]) -> None:
    assert suggest_layers(model_of(n_layers)) == expected


def test_published_layers_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, ("gpt2", 4, 32), (2, 3))
    assert suggest_layers(tiny_model("gpt2")) == (2, 3)
    assert PUBLISHED["gpt2", 48, 1600] == (13, 14, 15, 16, 17)  # MEMIT's for GPT-2 XL


def test_one_layer_is_the_published_or_the_middle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(layer in PUBLISHED[size] for size, layer in PUBLISHED_ONE.items())
    assert suggest_layer(model_of(12)) == 2
    monkeypatch.setitem(PUBLISHED_ONE, ("gpt2", 12, 32), 3)
    assert suggest_layer(model_of(12)) == 3


def test_silent_layers_are_passed_over() -> None:
    model = tiny_model("gpt2")
    names = [model.architecture.key_weight_name(layer) for layer in range(4)]
    silent = model.view({name: torch.zeros_like(model.weight(name)) for name in names[:1]})
    assert suggest_layers(silent) == (1,)
    silent = model.view({name: torch.zeros_like(model.weight(name)) for name in names[:2]})
    assert suggest_layers(silent) == (2,)
    with pytest.raises(ValueError, match="every MLP of tiny gpt2 is silent"):
        suggest_layers(model.view({name: torch.zeros_like(model.weight(name)) for name in names}))


def test_a_card_says_more_than_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(12)
    card = LayerCard("tiny", ("gpt2", 12, 32), model.revision, "r-rome", 30, 7, True, (7,), 0.9, (0.8, 1.0))
    assert choose_layer(model).source == "depth"
    assert suggest_layer(model, card) == 7
    assert choose_layer(model, card).source == "measured"
    edited = apply_edits(model, [])
    assert choose_layer(edited, card).source == "measured"  # the card of the base
    monkeypatch.setattr(cards, "cards", lambda: (card,))
    assert suggest_layer(model) == 7


def test_layers_that_are_not_given_depend_on_the_depth() -> None:
    """A share of it, or the suggested ones; what is given stays."""
    small, large = model_of(12), model_of(30)
    for config, shallow, deep in ((WiseConfig(), 9, 22), (FineTuneConfig(), 3, 7), (GraceConfig(), 7, 18)):
        assert (settled(small, config).layer, settled(large, config).layer) == (shallow, deep)
    assert settled(small, MemitConfig()).layers == (1, 2, 3)
    assert settled(large, MemitConfig()).layers == (3, 4, 5, 6, 7, 8)
    assert settled(large, MemitConfig(layer=9)).layers == (4, 5, 6, 7, 8, 9)
    assert settled(large, MemitConfig(depth=2)).layers == (7, 8)
    assert settled(large, MemitConfig(layer=9, depth=1)).layers == (9,)
