"""Which layers to edit by default: a layer card's, else the published ones for models that have some, else a share of
the depth.

The papers do not document how they chose their layers, and the layer that a trace suggests is not known to be the best
one to edit (Hase et al. 2023, arXiv:2301.04213).  Only edits at several layers tell, which is what a layer card is
(docs/layer-cards.md); the others are layers to begin with.
"""

from __future__ import annotations

from dataclasses import replace

from models import LanguageModel
from models.cards import LayerCard, LayerChoice, layer_choice
from models.published import PUBLISHED, usual_layers


def suggest_layers(model: LanguageModel) -> tuple[int, ...]:
    """The layers for MEMIT, EMMET and AlphaEdit.

    Skips layers whose down projection is zero, because such an MLP writes nothing.

    Raises:
        ValueError: for a mixture of experts, or if every MLP is silent.
    """
    n = model.n_layers
    known = PUBLISHED.get(_size(model))
    if known is not None:
        return known
    weights = [model.weight(model.architecture.key_weight_name(layer)) for layer in range(n)]
    # weights that accelerate keeps elsewhere cannot be looked at; what edits them says so
    speaking = [layer for layer, weight in enumerate(weights) if weight.is_meta or bool(weight.any())]
    if not speaking:
        raise ValueError(f"every MLP of {model.name} is silent: their down projections are zero; choose another model")
    chosen = tuple(layer for layer in usual_layers(n) if layer in speaking)
    return chosen or (speaking[0],)


def suggest_layer(model: LanguageModel, card: LayerCard | None = None) -> int:
    """The layer for ROME and other methods that edit one; arguments and errors as `choose_layer`."""
    return choose_layer(model, card).layer


def choose_layer(model: LanguageModel, card: LayerCard | None = None) -> LayerChoice:
    """The layer for ROME and other methods that edit one, and where it comes from: measured by a layer card, published,
    or the middle of the layers by depth.

    Args:
        card: one that the user gave; else those that ship and those in the cache are looked through.

    Raises:
        ValueError: as `suggest_layers`, or if the given card is of a model of another size.
    """
    layers = suggest_layers(model)
    revision = getattr(model, "base", model).revision  # an edited model is asked about as its base is
    choice = layer_choice(*_size(model), revision, card)
    if choice.source == "depth":
        return replace(choice, layer=layers[len(layers) // 2])
    return choice


def _size(model: LanguageModel) -> tuple[str, int, int]:
    return model.architecture.family, model.n_layers, model.d_model
