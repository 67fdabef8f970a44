"""Layer cards: which layer of a model to edit, measured on facts it knows; and the layer to take where there is none.

`python -m experiments run layer-card --model M` measures a card and writes it as JSON (docs/layer-cards.md).  Cards
that ship lie in `models/layer_cards/`, those of the user in the folder `cards` of the cache.  Imports no torch, so that
the page can say where its layer comes from before a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from models.published import PUBLISHED, PUBLISHED_ONE, usual_layer
from models.sources.cache import cache_folder

SCHEMA = 1
"""Version of the file's format."""
SHIPPED = Path(__file__).parent / "layer_cards"
LARGEST = 2**20
"""Bytes of a card's file, at most."""
Size = tuple[str, int, int]
"""(family, layers, d_model) of a model."""
Source = Literal["measured", "measured on its size", "published", "depth"]


@dataclass(frozen=True)
class LayerCard:
    """What was measured of one model, as far as a choice of the layer needs it."""

    model: str
    size: Size
    revision: str
    """Hash of the weights it was measured on."""
    method: str
    n: int
    """Facts."""
    layer: int
    """The recommended one."""
    stands_out: bool
    """Whether that layer is better than every other one that was tried."""
    tied: tuple[int, ...]
    """If it does not stand out: the layers, itself among them, that cannot be told from the best."""
    score: float
    interval: tuple[float, float]
    """95 % of the score's mean over facts."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method that did better than its defaults."""
    subjects: frozenset[str] = frozenset()
    """Of the facts it was measured on."""
    trace_layer: int | None = None
    """Where the average indirect effect of the MLPs is largest."""


@dataclass(frozen=True)
class LayerChoice:
    """The layer to edit, and where it comes from."""

    layer: int
    source: Source
    card: LayerCard | None = None

    @property
    def sentence(self) -> str:
        """One sentence: "measured on n facts", "published" or "a guess by depth"."""
        if self.card is None:
            words = {
                "published": "published for models of this family and size; hardly any published layer was measured",
                "depth": "a guess by depth: nothing was measured or published for this model",
            }
            return f"Layer {self.layer} is {words[self.source]}."
        card = self.card
        whose = "" if self.source == "measured" else f" of {card.model}, a model of the same family and size"
        low, high = card.interval
        better = ""
        if card.settings:
            values = ", ".join(f"{name}={value}" for name, value in card.settings.items())
            better = f"; {card.method} does better there with {values}"
        # whole sentences, so that the page can translate them
        if card.stands_out:
            return (
                f"Layer {self.layer} was measured on {card.n} facts{whose}: score {card.score:.2f} "
                f"(95 % interval {low:.2f} to {high:.2f}){better}."
            )
        others = ", ".join(str(layer) for layer in card.tied if layer != card.layer)
        if len(card.tied) == 2:
            return (
                f"Layer {self.layer} was measured on {card.n} facts{whose}: score {card.score:.2f} "
                f"(95 % interval {low:.2f} to {high:.2f}); none stands out, layer {others} does as well{better}."
            )
        return (
            f"Layer {self.layer} was measured on {card.n} facts{whose}: score {card.score:.2f} "
            f"(95 % interval {low:.2f} to {high:.2f}); none stands out, layers {others} do as well{better}."
        )


def layer_choice(
    family: str, n_layers: int, d_model: int, revision: str = "", card: LayerCard | None = None
) -> LayerChoice:
    """The layer to edit in a model: of a card, else the published one, else one by depth.

    A card of the very weights comes first, then one of another model of the family and size, such as the same model in
    another number format or tuned further.

    Args:
        revision: of the weights, where they are loaded.
        card: one that the user gave; it is taken as it is.

    Raises:
        ValueError: if the given card is of a model of another family or size.
    """
    size = (family, n_layers, d_model)
    if card is not None and card.size != size:
        raise ValueError(
            f"the card is of {card.model} ({_words(card.size)}), and this model is {_words(size)}; measure one with "
            "`python -m experiments run layer-card`"
        )
    matching = [card] if card is not None else [known for known in cards() if known.size == size]
    for known in sorted(matching, key=lambda known: known.revision != revision):
        return LayerChoice(known.layer, "measured" if known.revision == revision else "measured on its size", known)
    layers = PUBLISHED.get(size, ())
    usual = PUBLISHED_ONE.get(size, usual_layer(n_layers, layers))
    return LayerChoice(usual, "published" if layers or size in PUBLISHED_ONE else "depth")


def _words(size: Size) -> str:
    return f"{size[0]}, {size[1]} layers of width {size[2]}"


def cards_folder() -> Path:
    """Where the user's own cards lie."""
    return cache_folder() / "cards"


def cards() -> tuple[LayerCard, ...]:
    """Every card there is, the user's own first; files that are none are passed over."""
    folders = (cards_folder(), SHIPPED)
    return tuple(card for folder in folders for path in sorted(folder.glob("*.json")) for card in _readable(path))


def _readable(path: Path) -> Iterator[LayerCard]:
    try:
        yield _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return


def read_card(path: Path) -> LayerCard:
    """The card of a file.

    Raises:
        ValueError: if it is none, or one of a later format.
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no layer card {str(path)!r}; give the path of a layer-card.json")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> LayerCard:
    """`changed` is the file's time, so that another version of it is read anew."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name!r} is no layer card: it is larger than {LARGEST // 2**20} MiB")
    try:
        return card_of(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path.name!r} is no layer card ({reason}); give the layer-card.json that the study layer-card wrote"
        ) from None


def card_of(values: Mapping[str, Any]) -> LayerCard:
    """The card of a file's JSON.

    Raises:
        ValueError: if it has another format.
        KeyError, TypeError: if something is missing or of another type.
    """
    if values["schema"] != SCHEMA:
        raise ValueError(f"the layer card has format {values['schema']!r}; this version reads {SCHEMA}")
    model, best = values["model"], values["recommended"]
    n_layers = int(model["n_layers"])
    if not 0 <= int(best["layer"]) < n_layers:
        raise ValueError(f"the layer card recommends layer {best['layer']} of a model with layers 0 to {n_layers - 1}")
    low, high = best["interval"]
    return LayerCard(
        model=str(model["name"]),
        size=(str(model["family"]), n_layers, int(model["d_model"])),
        revision=str(model["revision"]),
        method=str(values["method"]),
        n=int(values["n"]),
        layer=int(best["layer"]),
        stands_out=bool(best["stands_out"]),
        tied=tuple(int(layer) for layer in best["tied"]),
        score=float(best["score"]),
        interval=(float(low), float(high)),
        settings=dict(best["settings"]),
        subjects=frozenset(map(str, values["subjects"])),
        trace_layer=values["trace_layer"],
    )
