"""Which layers to edit when nobody has said: the published ones for models that have some, else a share of the depth.

Nobody documents how these were chosen, and the layer a trace points at is not known to be the best one to edit (Hase et
al. 2023, arXiv:2301.04213); a sweep over layers is the honest way.  Until then these are where to begin.
"""

from __future__ import annotations

from models import LanguageModel

PUBLISHED: dict[tuple[str, int, int], tuple[int, ...]] = {
    ("gpt2", 24, 1024): (8,),
    ("gpt2", 36, 1280): (12,),
    ("gpt2", 48, 1600): (13, 14, 15, 16, 17),
    ("gptj", 28, 4096): (3, 4, 5, 6, 7, 8),
    ("gpt_neox", 44, 6144): (15,),
    ("llama", 32, 4096): (4, 5, 6, 7, 8),
    ("mistral", 32, 4096): (4, 5, 6, 7, 8),
    ("qwen2", 28, 3584): (4, 5, 6, 7, 8),
}
"""(family, layers, d_model) -> layers, from the hyper-parameters of ROME, MEMIT and EasyEdit."""
PUBLISHED_ONE: dict[tuple[str, int, int], int] = {
    ("gpt2", 48, 1600): 17,
    ("gptj", 28, 4096): 5,
    ("llama", 32, 4096): 5,
    ("mistral", 32, 4096): 5,
    ("qwen2", 28, 3584): 5,
}
"""The same for ROME, where that is not the only layer above."""

FIRST, LAST = 0.1, 0.25
"""The published ranges lie between these shares of the depth, those of GPT-2 XL, the oldest, a little later."""


def suggest_layers(model: LanguageModel) -> tuple[int, ...]:
    """A run of layers for MEMIT and its kin.

    Layers whose down projection is zero are passed over: an MLP that writes nothing was not made to hold facts.

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
    wanted = range(round(FIRST * n), max(round(FIRST * n), round(LAST * n)) + 1)
    chosen = tuple(layer for layer in wanted if layer in speaking)
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
