"""Trained editors for tiny models: small, quickly made, real."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from editing import get_method
from editing.edit import Edit
from editing.train.artefact import Artefact, save_artefact
from editing.train.loop import Trainer
from facts import EditRequest
from models import LanguageModel
from tests.editing.train.toys import ke_trainer, mend_trainer, serac_trainer
from tests.tiny import tiny_model

STEPS = {"mend": 40, "ke": 20, "serac": 60}


@cache
def editor(kind: str, family: str = "gpt2") -> str:
    """Folder of an editor trained for a tiny model; one for the session."""
    return written(trained(kind, tiny_model(family)), tiny_model(family))


def trained(kind: str, model: LanguageModel) -> Trainer:
    """A trainer after its steps."""
    trainer: Trainer
    if kind == "mend":
        trainer = mend_trainer(model, learning_rate=1e-2, rate_learning_rate=1e-2, edit_weight=1.0)
    elif kind == "ke":
        trainer = ke_trainer(model, margin=1.0, learning_rate=1e-2)
    else:
        trainer = serac_trainer(model)
    for number in range(STEPS[kind]):
        trainer.step(number, 0.0)
    trainer.validate()
    return trainer


def written(trainer: Trainer, model: LanguageModel) -> str:
    """The trainer's present editor as an artefact for a model; its folder."""
    folder = Path(mkdtemp(prefix="engram-test-"))
    save_artefact(Artefact(trainer.kind, model.revision, trainer.settings, {"score": 0.5}, trainer.editor()), folder)
    return str(folder)


def made(
    kind: str, model: LanguageModel, *requests: EditRequest, active: tuple[Edit, ...] = (), **settings: Any
) -> Edit:
    """An edit by the trained editor of a tiny model's family."""
    method = get_method(kind)
    if "artefact" not in settings:
        settings["artefact"] = editor(kind, model.architecture.family)
    return method.compute(model, requests, method.config_type(**settings), active=active)


def ids_of(model: LanguageModel, text: str) -> torch.Tensor:
    """One row."""
    return torch.tensor([model.encode(text)])
