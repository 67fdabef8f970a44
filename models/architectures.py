"""What each family calls its parts: one row a family, settled here and nowhere else.

Names and traps were read off instantiated models.  The key module is the MLP's down projection, the matrix
that ROME reads as a linear associative memory (Meng et al. 2022, section 3.1, arXiv:2202.05262).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Architecture:
    """Where a family keeps its parts.  Paths are dotted names, from the model or from inside one block."""

    family: str
    """`config.model_type` of transformers."""
    embedding: str
    """Path of the token embedding.  Its output is taken before learned positions are added."""
    layers: str
    """Path of the list of blocks."""
    attn: str
    """Path of the attention inside a block; what it returns is written to the residual stream."""
    heads: str
    """Path of the attention's output projection inside a block; it reads what the heads computed."""
    mlp: str | None
    """Path of the MLP inside a block, or None where the family has no such module (OPT)."""
    key_module: str
    """Path of the MLP's down projection inside a block."""
    final_norm: str
    """Path of the norm before the head."""
    head: str
    """Path of the projection to the vocabulary."""
    parallel: bool = False
    """Whether attention and MLP read the same residual state (GPT-J, GPT-NeoX, Phi)."""

    def block(self, layer: int) -> str:
        """Path of one block."""
        return f"{self.layers}.{layer}"

    def attn_path(self, layer: int) -> str:
        """Path of one block's attention."""
        return f"{self.block(layer)}.{self.attn}"

    def heads_path(self, layer: int) -> str:
        """Path of one block's attention output projection."""
        return f"{self.block(layer)}.{self.heads}"

    def mlp_path(self, layer: int) -> str:
        """Path of the module whose output is the MLP's write; the down projection where there is no MLP module."""
        return f"{self.block(layer)}.{self.mlp or self.key_module}"

    def key_path(self, layer: int) -> str:
        """Path of one block's down projection."""
        return f"{self.block(layer)}.{self.key_module}"

    def key_weight_name(self, layer: int) -> str:
        """Parameter name of one block's down projection, such as `transformer.h.3.mlp.c_proj.weight`."""
        return f"{self.key_path(layer)}.weight"


def _llama_like(family: str) -> Architecture:
    return Architecture(
        family,
        embedding="model.embed_tokens",
        layers="model.layers",
        attn="self_attn",
        heads="self_attn.o_proj",
        mlp="mlp",
        key_module="mlp.down_proj",
        final_norm="model.norm",
        head="lm_head",
    )


def _gpt_like(family: str, heads: str, key_module: str, *, parallel: bool = False) -> Architecture:
    return Architecture(
        family,
        embedding="transformer.wte",
        layers="transformer.h",
        attn="attn",
        heads=heads,
        mlp="mlp",
        key_module=key_module,
        final_norm="transformer.ln_f",
        head="lm_head",
        parallel=parallel,
    )


_ARCHITECTURES = (
    _gpt_like("gpt2", "attn.c_proj", "mlp.c_proj"),
    _gpt_like("gpt_neo", "attn.attention.out_proj", "mlp.c_proj"),
    _gpt_like("gptj", "attn.out_proj", "mlp.fc_out", parallel=True),
    Architecture(
        "gpt_neox",
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        attn="attention",
        heads="attention.dense",
        mlp="mlp",
        key_module="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        head="lm_head",
        parallel=True,
    ),
    _llama_like("llama"),
    _llama_like("mistral"),
    _llama_like("qwen2"),
    _llama_like("qwen3"),
    _llama_like("gemma"),
    Architecture(
        "opt",
        embedding="model.decoder.embed_tokens",
        layers="model.decoder.layers",
        attn="self_attn",
        heads="self_attn.out_proj",
        mlp=None,
        key_module="fc2",
        final_norm="model.decoder.final_layer_norm",
        head="lm_head",
    ),
    Architecture(
        "phi",
        embedding="model.embed_tokens",
        layers="model.layers",
        attn="self_attn",
        heads="self_attn.dense",
        mlp="mlp",
        key_module="mlp.fc2",
        final_norm="model.final_layernorm",
        head="lm_head",
        parallel=True,
    ),
)
FAMILIES: tuple[str, ...] = tuple(architecture.family for architecture in _ARCHITECTURES)
"""Families that can be loaded, as transformers' `model_type`.  Pythia is `gpt_neox`."""
_BY_FAMILY = {architecture.family: architecture for architecture in _ARCHITECTURES}


def architecture_named(family: str) -> Architecture:
    """The parts of a family.

    Raises:
        ValueError: if the family is not supported.
    """
    if family not in _BY_FAMILY:
        raise ValueError(f"the model family {family!r} is not supported; choose a model of {', '.join(FAMILIES)}")
    return _BY_FAMILY[family]


def architecture_of(module: Any) -> Architecture:
    """The parts of a loaded model, each looked up once so that a wrong name fails here.

    Raises:
        ValueError: if the family is not supported or the model lacks a part its family should have.
    """
    architecture = architecture_named(module.config.model_type)
    if architecture.family == "gpt_neox":
        head = "embed_out" if hasattr(module, "embed_out") else "lm_head"  # renamed in transformers 5
        architecture = replace(architecture, head=head, parallel=module.config.use_parallel_residual)
    paths = [architecture.embedding, architecture.head]
    paths += [architecture.attn_path(0), architecture.heads_path(0), architecture.mlp_path(0)]
    paths += [architecture.key_path(0)]
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            raise ValueError(
                f"{type(module).__name__} has no part {path!r}, which every {architecture.family} model should have"
            ) from None
    return architecture


def as_out_in(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight seen as `[d_out, d_in]`, and back again: transposing is its own inverse.

    GPT-2 stores its MLP weights `[d_in, d_out]` (Conv1D), everyone else `[d_out, d_in]` (Linear).  The module's
    type decides, never the shape: a square matrix would be guessed wrong.

    Args:
        module: the layer the weight belongs to.
        weight: its weight, or a matrix laid out like it; `[d_in, d_out]` or `[d_out, d_in]`.

    Returns:
        `[d_out, d_in]` for a stored weight, the stored layout for `[d_out, d_in]`; a view, not a copy.

    Raises:
        ValueError: if the module is neither Linear nor Conv1D.
    """
    if isinstance(module, Conv1D):
        return weight.T
    if isinstance(module, nn.Linear):
        return weight
    raise ValueError(f"the weight of a {type(module).__name__} has no known orientation; expected Linear or Conv1D")
