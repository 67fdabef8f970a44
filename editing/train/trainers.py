"""The trainers by name, each with its settings for a model."""

from __future__ import annotations

from collections.abc import Callable

from editing.train.episodes import Episodes, Split, known_facts
from editing.train.ke_trainer import KeSettings, KeTrainer
from editing.train.loop import Trainer
from editing.train.mend_trainer import MendSettings, MendTrainer
from editing.train.serac_trainer import SeracSettings, SeracTrainer
from editing.train.weight_trainer import last_layers
from facts.atlas import load_atlas
from models import LanguageModel

Source = Callable[..., Episodes]


def _mend(model: LanguageModel, seed: int, source: Source) -> Trainer:
    settings = MendSettings(last_layers(model), seed=seed)
    return MendTrainer(model, settings, source("train"), source("validation"))


def _ke(model: LanguageModel, seed: int, source: Source) -> Trainer:
    settings = KeSettings(last_layers(model), seed=seed)
    return KeTrainer(model, settings, source("train"), source("validation"))


def _serac(model: LanguageModel, seed: int, source: Source) -> Trainer:
    return SeracTrainer(model, SeracSettings(seed=seed), source("train"), source("validation"))


TRAINERS: dict[str, Callable[[LanguageModel, int, Source], Trainer]] = {"mend": _mend, "ke": _ke, "serac": _serac}


def make_trainer(method: str, model: LanguageModel, seed: int = 0) -> Trainer:
    """The trainer of a method with its usual settings, on the bundled atlas.

    Raises:
        ValueError: if the method is not a learned editor, or the model knows too few facts of the atlas.
    """
    if method not in TRAINERS:
        raise ValueError(f"unknown editor {method!r}; choose from {', '.join(TRAINERS)}")
    atlas = load_atlas()
    known = known_facts(model, atlas.facts, atlas)

    def source(split: Split, **options: float) -> Episodes:
        return Episodes(atlas, split, known, **options)  # type: ignore[arg-type]

    return TRAINERS[method](model, seed, source)
