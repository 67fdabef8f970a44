"""Where activations can be read and rewritten: the names of the sites, their modules, and their order in a forward."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from models.architectures import Architecture
from models.language_model import LanguageModel

Site = Literal["embed", "resid_pre", "attn_heads", "attn_out", "mlp_in", "mlp_key", "mlp_out", "resid_post"]
"""In the order a block computes them.

embed: output of the token embedding, before positions, layer 0.  resid_pre: the block's input.  attn_heads: input of
the attention's output projection, every head's part after the other.  attn_out, mlp_out: what attention and MLP write
to the residual stream.  mlp_in: input of the MLP.  mlp_key: input of its down projection.  resid_post: the block's
output.
"""
Key = tuple[Site, int]
"""A site and its layer."""
Visit = Callable[[Tensor], Tensor | None]
"""Sees an activation [row, pos, d] and returns its replacement, or None to leave it."""

INPUTS: frozenset[Site] = frozenset({"resid_pre", "attn_heads", "mlp_in", "mlp_key"})
"""Sites that are what a module reads, not what it returns."""
ORDER: dict[Site, int] = {site: rank for rank, site in enumerate(get_args(Site))}


@dataclass(frozen=True, eq=False)
class Keep:
    """A visit that notes a copy of the activation, since Falcon and others add to a module's output in place."""

    key: Key
    states: dict[Key, Tensor]
    """Where to: shared by all that are noted in one forward."""

    def __call__(self, value: Tensor) -> None:
        """Note it and leave it."""
        self.states[self.key] = value.clone()


def site_path(architecture: Architecture, key: Key) -> str:
    """The dotted name of the module that the site belongs to.

    Raises:
        ValueError: if the family has no such module.
    """
    site, layer = key
    if site == "embed":
        return architecture.embedding
    if site == "attn_heads":
        return architecture.heads_path(layer)
    if site == "attn_out":
        return architecture.attn_path(layer)
    if site == "mlp_in":
        if architecture.mlp is None:
            raise ValueError(f"the {architecture.family} family has no module that is its whole MLP; use mlp_key")
        return architecture.mlp_path(layer)
    if site == "mlp_out":
        return architecture.mlp_path(layer)
    if site == "mlp_key":
        return architecture.key_path(layer)
    return architecture.block(layer)


def in_execution_order(model: LanguageModel, keys: Collection[Key]) -> list[Key]:
    """The distinct keys in the order the model computes them, as nnsight asks for.

    Attention runs before the MLP in every supported family, the parallel ones included.

    Raises:
        ValueError: if a site or layer does not exist.
    """
    for site, layer in keys:
        if site not in ORDER:
            raise ValueError(f"unknown site {site!r}; choose from {', '.join(ORDER)}")
        last = 0 if site == "embed" else model.n_layers - 1
        if not 0 <= layer <= last:
            raise ValueError(f"layer {layer} is out of range for {site}; {model.name} has layers 0 to {last} there")
    return sorted(set(keys), key=lambda key: (key[0] != "embed", key[1], ORDER[key[0]]))
