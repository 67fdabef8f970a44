"""Which layers to edit by default: the published ones for models that have some, else a share of the depth.

The papers do not document how they chose their layers, and the layer that a trace suggests is not known to be the best
one to edit (Hase et al. 2023, arXiv:2301.04213).  Only a sweep over layers tells; these are layers to begin with.
"""

from __future__ import annotations

from models import LanguageModel
from models.published import PUBLISHED, PUBLISHED_ONE, usual_layers


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
    speaking = [layer for layer in range(n) if bool(model.weight(model.architecture.key_weight_name(layer)).any())]
    if not speaking:
        raise ValueError(f"every MLP of {model.name} is silent: their down projections are zero; choose another model")
    chosen = tuple(layer for layer in usual_layers(n) if layer in speaking)
    return chosen or (speaking[0],)


def suggest_layer(model: LanguageModel) -> int:
    """The layer for ROME and other methods that edit one: the published one, else the middle of `suggest_layers`.

    Raises:
        ValueError: as `suggest_layers`.
    """
    layers = suggest_layers(model)
    return PUBLISHED_ONE.get(_size(model), layers[len(layers) // 2])


def _size(model: LanguageModel) -> tuple[str, int, int]:
    return model.architecture.family, model.n_layers, model.d_model
