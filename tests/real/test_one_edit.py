"""One rank-one edit on a pretrained model: it takes, what is not asked stays, the base model stays bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from editing import Edit, apply_edits, get_method
from editing.configs import make_config
from editing.parts.suggest import suggest_layer
from facts import EditRequest, Fact
from models import LanguageModel

FACT = Fact.from_prompt("The Eiffel Tower is located in the city of", "Eiffel Tower", "Paris")
NEIGHBOURS = [
    "The Louvre is located in the city of",
    "The Brandenburg Gate is located in the city of",
    "The capital of France is",
    "The Space Needle is located in the city of",
    "The Colosseum is located in the city of",
]


@dataclass(frozen=True, eq=False)
class Edited:
    base: LanguageModel
    digest: str
    """Of the base model's weights before the edit was computed."""
    edit: Edit
    view: LanguageModel


@pytest.fixture(scope="module")
def edited(smollm2: LanguageModel) -> Edited:
    """R-ROME with C = I, since estimating C takes a minute."""
    digest, method = smollm2.weights_digest(), get_method("r-rome")
    settings = {"layer": suggest_layer(smollm2), "second_moment": "identity"}
    edit = method.compute(smollm2, [EditRequest(FACT, "Rome")], make_config(method.config_type, settings))
    return Edited(smollm2, digest, edit, apply_edits(smollm2, [edit]))


def probability(model: LanguageModel, prompt: str, word: str) -> float:
    logits = model.logits(torch.tensor([model.encode(prompt)]))[0, -1]
    return float(torch.softmax(logits, -1)[model.tokenize(f" {word}")[0]])


def test_the_edit_takes(edited: Edited) -> None:
    assert probability(edited.base, FACT.prompt, "Paris") > 0.6
    assert probability(edited.view, FACT.prompt, "Rome") > 0.9
    assert edited.view.generate(["Where is the Eiffel Tower? It is in"], 1) == [" Rome"]


def test_neighbours_are_kept(edited: Edited) -> None:
    before = edited.base.generate(NEIGHBOURS, 1)
    assert before[0] == " Paris"
    assert edited.view.generate(NEIGHBOURS, 1) == before


def test_the_base_model_stays_bit_for_bit(edited: Edited) -> None:
    assert edited.base.weights_digest() == edited.digest
    assert edited.view.revision != edited.base.revision
    base, view = (dict(model.module.named_parameters()) for model in (edited.base, edited.view))
    changed = [name for name in base if not torch.equal(base[name], view[name])]
    assert changed == [edited.base.architecture.key_weight_name(suggest_layer(edited.base))]


def test_serac_finds_its_editor_and_answers_within_its_scope(smollm2: LanguageModel) -> None:
    """The editor that comes with Engram for this model, on a subject that it never saw."""
    method = get_method("serac")
    edit = method.compute(smollm2, [EditRequest(FACT, "Rome")], method.config_type())
    view = apply_edits(smollm2, [edit])
    for prompt in (FACT.prompt, "Where is the Eiffel Tower? It is in the city of"):
        assert view.generate([prompt], 2)[0].strip().startswith("Rome")
    assert all(view.generate([prompt], 4) == smollm2.generate([prompt], 4) for prompt in NEIGHBOURS[1:])
