"""Layers that published edits of known models used, by the model's family and size.

From the hyper-parameters of ROME, MEMIT and EasyEdit and of arnab-api/romba (pythia-2.8b).  Hardly any of them was
measured: for models after GPT-J the authors used MEMIT's.
"""

from __future__ import annotations

from collections.abc import Sequence

PUBLISHED: dict[tuple[str, int, int], tuple[int, ...]] = {
    ("gpt2", 24, 1024): (8,),
    ("gpt2", 36, 1280): (12,),
    ("gpt2", 48, 1600): (13, 14, 15, 16, 17),
    ("gptj", 28, 4096): (3, 4, 5, 6, 7, 8),
    ("gpt_neox", 32, 2560): (15,),
    ("gpt_neox", 44, 6144): (15,),
    ("llama", 28, 3072): (4, 5, 6, 7, 8),
    ("llama", 32, 4096): (4, 5, 6, 7, 8),
    ("mistral", 32, 4096): (4, 5, 6, 7, 8),
    ("qwen2", 28, 3584): (4, 5, 6, 7, 8),
}
"""(family, layers, d_model) -> layers of MEMIT, or of ROME where only that was published."""
PUBLISHED_ONE: dict[tuple[str, int, int], int] = {
    ("gpt2", 48, 1600): 17,
    ("gptj", 28, 4096): 5,
    ("llama", 28, 3072): 5,
    ("llama", 32, 4096): 5,
    ("mistral", 32, 4096): 5,
    ("qwen2", 28, 3584): 5,
}
"""The same for ROME, where that is not the only layer above."""

FIRST, LAST = 0.1, 0.25
"""The published ranges lie between these shares of the depth, those of GPT-2 XL, the oldest, a little later."""


def usual_layer(n_layers: int, layers: Sequence[int] = ()) -> int:
    """The one layer to begin with: the middle of the published layers of a model, or else of its `usual_layers`."""
    layers = layers or usual_layers(n_layers)
    return min(layers[len(layers) // 2], n_layers - 1)


def usual_layers(n_layers: int) -> range:
    """Where edits usually begin in a model of so many layers that has no published ones."""
    first = round(FIRST * n_layers)
    return range(first, max(first, round(LAST * n_layers)) + 1)
