"""The trainers by name, each with its settings for a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from editing.configs import make_config
from editing.requests import check_editable
from editing.train.editors.ke_trainer import KeSettings, KeTrainer
from editing.train.editors.mend_trainer import MendSettings, MendTrainer
from editing.train.editors.serac_trainer import SeracSettings, SeracTrainer
from editing.train.editors.weight_trainer import early_layers
from editing.train.episodes import Episodes, known_facts
from editing.train.loop import Trainer
from facts.atlas import load_atlas
from facts.records import as_tuples
from models import LanguageModel

SETTINGS: dict[str, type[Any]] = {"mend": MendSettings, "ke": KeSettings, "serac": SeracSettings}
"""Editor -> its settings."""
USUAL = {"mend": (2000, 200), "ke": (1150, 115), "serac": (150, 30)}
"""Editor -> steps of a usual training and steps between validations."""


def make_trainer(method: str, model: LanguageModel, changes: Mapping[str, Any] | None = None) -> Trainer:
    """The trainer of a method with its usual settings, save those given, on the bundled atlas.

    Raises:
        ValueError: as `check_editable`, and if the method is not a learned editor, a setting is unknown or not usable,
            or the model knows too few facts of the atlas.
    """
    if method not in SETTINGS:
        raise ValueError(f"unknown editor {method!r}; choose from {', '.join(SETTINGS)}")
    check_editable(model)
    values = {"layers": early_layers(model)} if method in ("mend", "ke") else {}
    settings = make_config(SETTINGS[method], {**values, **(changes or {})})
    atlas = load_atlas()
    known = known_facts(model, atlas.facts, atlas)
    names = ("paraphrases", "locality", "prefixed", "by_relation")
    own = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    training, validation = (Episodes(atlas, split, known, **own) for split in ("train", "validation"))
    match settings:
        case MendSettings():
            return MendTrainer(model, settings, training, validation)
        case KeSettings():
            return KeTrainer(model, settings, training, validation)
        case _:
            return SeracTrainer(model, settings, training, validation)


def parsed(changes: Sequence[str]) -> dict[str, Any]:
    """Settings from "NAME=VALUE", values as JSON, lists as tuples.

    Raises:
        ValueError: if one is not of that form.
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            equals = ""
        if not equals:
            raise ValueError(
                f"{change!r} is no setting; write NAME=VALUE, such as layers=[3,4,5] or learning_rate=0.001"
            )
        values[name] = as_tuples(value)
    return values
