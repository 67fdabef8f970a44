"""A small made-up atlas for tiny random models, and trainers that learn on it within seconds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from editing.train.editors.ke_trainer import KeSettings, KeTrainer
from editing.train.editors.mend_trainer import MendSettings, MendTrainer
from editing.train.editors.serac_trainer import SeracSettings, SeracTrainer
from editing.train.episodes import Episodes, Split
from facts import EditRequest, Fact
from facts.atlas import Atlas, AtlasFact, Relation
from models import LanguageModel
from tests.tiny import build_tiny

OBJECTS = ("Paris", "Rome", "Seattle", "Denmark", "Italy", "France")
REQUEST = EditRequest(Fact("Space Needle", "The {} is located in the city of", "Seattle", "place"), "Paris")
OTHER = EditRequest(Fact("Eiffel Tower", "The {} is located in the city of", "Paris", "place"), "Rome")
TWO_TOKENS = EditRequest(Fact("Space Needle", "The {} is located in the city of", "Seattle", "place"), "Oslo Rome")
SMALL: dict[str, Any] = {
    "edits_per_step": 4,
    "batch_sizes": (1, 2),
    "validation_edits": 8,
    "mixed_precision": False,
}


def toy_atlas() -> Atlas:
    """80 subjects with a fact in each of two relations; six objects, three templates and a held-out one."""
    relations = {
        name: Relation(
            name=name,
            subject_type="thing",
            object_type="place",
            question="Where is {}?",
            phrase="the place of {}",
            unique_inverse=False,
            inverse_template="",
            templates=tuple(f"{{}} {words}" for words in wordings[:3]),
            held_out_templates=(f"{{}} {wordings[3]}",),
        )
        for name, wordings in {
            "place": ("is in", "is located in", "is the tower in", "stands in"),
            "home": ("works in", "was born in", "plays in", "lives in"),
        }.items()
    }
    facts = tuple(
        AtlasFact(relation, f"{'ABCDEFGH'[index % 8]}{index}", OBJECTS[(index + shift) % 6], False, False)
        for index in range(80)
        for shift, relation in enumerate(relations)
    )
    return Atlas(facts, relations, {}, {})


def toy_episodes(split: Split, **options: Any) -> Episodes:
    """Episodes of the toy atlas; every fact counts as known."""
    atlas = toy_atlas()
    known = {(fact.subject, fact.relation) for fact in atlas.facts}
    return Episodes(atlas, split, known, prefixed=0.0, **options)


def mend_trainer(model: LanguageModel, **changes: Any) -> MendTrainer:
    """MEND on the last two blocks, small."""
    settings = MendSettings(**{"layers": (2, 3), "rank": 16, "learning_rate": 3e-3, **SMALL, **changes})
    return MendTrainer(model, settings, toy_episodes("train"), toy_episodes("validation"))


def ke_trainer(model: LanguageModel, **changes: Any) -> KeTrainer:
    """KE on the last two blocks, small."""
    settings = KeSettings(**{"layers": (2, 3), "hidden": 8, "condition": 8, **SMALL, **changes})
    return KeTrainer(model, settings, toy_episodes("train"), toy_episodes("validation"))


def linear_twin(model: LanguageModel) -> LanguageModel:
    """A GPT-2 whose MLP weights stand in Linear modules, transposed, and compute the same."""
    twin = copy.deepcopy(model.module)
    for block in twin.transformer.h:
        for name in ("c_fc", "c_proj"):
            stored = getattr(block.mlp, name)
            assert isinstance(stored, Conv1D)
            linear = nn.Linear(*stored.weight.shape)
            linear.weight = nn.Parameter(stored.weight.T.contiguous(), requires_grad=False)
            linear.bias = stored.bias
            setattr(block.mlp, name, linear)
    return LanguageModel("twin", "twin", twin, model.tokenizer)


def square_gpt2() -> LanguageModel:
    """A GPT-2 whose MLP is as wide as its residual stream, so that no shape tells a weight's orientation."""
    module, tokenizer = build_tiny("gpt2", n_inner=32)
    return LanguageModel("square", "square", module, tokenizer)


def same_gradient(model: LanguageModel, name: str, ids: list[int], n_prompt: int) -> torch.Tensor:
    """Plain torch: the gradient of the answer's mean NLL with respect to a stored weight."""
    module = copy.deepcopy(model.module)
    weight = dict(module.named_parameters())[name].requires_grad_()
    logits = module(torch.tensor([ids])).logits[0]
    loss = nn.functional.cross_entropy(logits[n_prompt - 1 : -1], torch.tensor(ids[n_prompt:]))
    (gradient,) = torch.autograd.grad(loss, [weight])
    return gradient


def serac_trainer(model: LanguageModel, **changes: Any) -> SeracTrainer:
    """SERAC, small."""
    small = {"heads": 2, "width": 16, "pairs": 16, "answers": 4, "validation_edits": 8, "scope_rate": 1e-2, "rank": 4}
    settings = SeracSettings(**{**small, "answers_rate": 1e-2, **changes})
    return SeracTrainer(model, settings, toy_episodes("train"), toy_episodes("validation"))
