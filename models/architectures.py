"""The names of every family's parts: one row per family, nowhere else in the project.

Names were read off instantiated models.  The key module is the MLP's down projection, the matrix
that ROME reads as a linear associative memory (Meng et al. 2022, section 3.1, arXiv:2202.05262).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    """Path of the module inside a block whose output is the attention's write; the output projection where the
    attention adds the residual itself (Bloom)."""
    heads: str
    """Path of the attention's output projection inside a block; it reads what the heads computed."""
    mlp: str | None
    """Path of the MLP inside a block, or None if no module returns the MLP's write: OPT has none, and those of Bloom
    and MPT add the residual themselves."""
    key_module: str | None
    """Path of the MLP's down projection inside a block, or None for a mixture of experts, which has many."""
    final_norm: str
    """Path of the norm before the head."""
    head: str
    """Path of the projection to the vocabulary."""
    parallel: bool = False
    """Whether attention and MLP read the same residual state (GPT-J, GPT-NeoX, Phi, Falcon, Cohere)."""
    mlp_norm: str | None = None
    """Path of the norm inside a block that the MLP's output passes before it is added, if there is one (Gemma 2 and 3,
    OLMo 2, which have one after the attention as well).  Only the direction of the MLP's output counts then."""
    mixer: str | None = None
    """Of a hybrid, path of the module that takes the attention's place in some blocks (Qwen 3.5, LFM2, Granite 4)."""
    mixed: frozenset[int] = frozenset()
    """The layers where it does; read off the loaded model."""
    factor: str | None = None
    """Name in the configuration of the number by which what attention and MLP return is multiplied before it is added,
    if there is one (Granite)."""

    @property
    def post_norm(self) -> bool:
        """Whether what attention and MLP return is normalised before it is added."""
        return self.mlp_norm is not None

    def block(self, layer: int) -> str:
        """Path of one block."""
        return f"{self.layers}.{layer}"

    def attn_path(self, layer: int) -> str:
        """Path of one block's attention, or of what takes its place."""
        return f"{self.block(layer)}.{self.mixer if layer in self.mixed else self.attn}"

    def heads_path(self, layer: int) -> str:
        """Path of one block's attention output projection.

        Raises:
            ValueError: if something else takes the attention's place there.
        """
        if layer in self.mixed:
            raise ValueError(
                f"layer {layer} of this {self.family} model has no attention, so it has neither heads to trace nor "
                "edges to cut; trace what the layer writes in its place (attn_out)"
            )
        return f"{self.block(layer)}.{self.heads}"

    def mlp_path(self, layer: int) -> str:
        """Path of the module whose output is the MLP's write; the down projection where there is no MLP module."""
        return f"{self.block(layer)}.{self.mlp}" if self.mlp else self.key_path(layer)

    def key_path(self, layer: int) -> str:
        """Path of one block's down projection.

        Raises:
            ValueError: for a mixture of experts.
        """
        if self.key_module is None:
            raise ValueError(
                f"the MLP of a {self.family} model is a mixture of experts without one down projection; "
                "trace it, or edit a model without experts"
            )
        return f"{self.block(layer)}.{self.key_module}"

    def key_weight_name(self, layer: int) -> str:
        """Parameter name of one block's down projection, such as `transformer.h.3.mlp.c_proj.weight`."""
        return f"{self.key_path(layer)}.weight"


_LLAMA = Architecture(
    "llama",
    embedding="model.embed_tokens",
    layers="model.layers",
    attn="self_attn",
    heads="self_attn.o_proj",
    mlp="mlp",
    key_module="mlp.down_proj",
    final_norm="model.norm",
    head="lm_head",
)
_GPT2 = Architecture(
    "gpt2",
    embedding="transformer.wte",
    layers="transformer.h",
    attn="attn",
    heads="attn.c_proj",
    mlp="mlp",
    key_module="mlp.c_proj",
    final_norm="transformer.ln_f",
    head="lm_head",
)
_BLOOM = replace(
    _GPT2,
    family="bloom",
    embedding="transformer.word_embeddings",
    attn="self_attention.dense",
    heads="self_attention.dense",
    mlp=None,
    key_module="mlp.dense_4h_to_h",
)

_LIKE_LLAMA = (
    "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma", "vaultgemma", "phi3", "stablelm",
    "smollm3", "olmo", "glm", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "arcee", "apertus", "helium", "jais2",
    "nemotron",
)  # fmt: skip
_LIKE_GEMMA2 = ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4")
_OF_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss", "deepseek_v2", "deepseek_v3")

_ARCHITECTURES = (
    _GPT2,
    replace(_GPT2, family="gpt_neo", heads="attn.attention.out_proj"),
    *(
        replace(_GPT2, family=family, heads="attn.out_proj", key_module="mlp.fc_out", parallel=True)
        for family in ("gptj", "codegen")
    ),
    replace(_GPT2, family="gpt_bigcode"),
    replace(
        _GPT2,
        family="gpt_neox",
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        attn="attention",
        heads="attention.dense",
        key_module="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        parallel=True,
    ),
    *(replace(_LLAMA, family=family) for family in _LIKE_LLAMA),
    *(replace(_LLAMA, family=family, mlp_norm="post_feedforward_layernorm") for family in _LIKE_GEMMA2),
    replace(_LLAMA, family="glm4", mlp_norm="post_mlp_layernorm"),
    replace(_LLAMA, family="granite", factor="residual_multiplier"),
    replace(
        _LLAMA,
        family="granitemoehybrid",
        mlp="shared_mlp",
        key_module="shared_mlp.output_linear",
        mixer="mamba",
        factor="residual_multiplier",
    ),
    replace(_LLAMA, family="qwen3_5_text", mixer="linear_attn"),
    replace(
        _LLAMA,
        family="lfm2",
        heads="self_attn.out_proj",
        mlp="feed_forward",
        key_module="feed_forward.w2",
        final_norm="model.embedding_norm",
        mixer="conv",
    ),
    *(replace(_LLAMA, family=family, parallel=True) for family in ("cohere", "cohere2")),
    *(replace(_LLAMA, family=family, key_module=None) for family in _OF_EXPERTS),
    replace(_LLAMA, family="starcoder2", key_module="mlp.c_proj"),
    replace(_LLAMA, family="nanochat", key_module="mlp.fc2"),
    replace(
        _LLAMA,
        family="persimmon",
        heads="self_attn.dense",
        key_module="mlp.dense_4h_to_h",
        final_norm="model.final_layernorm",
    ),
    replace(
        _LLAMA,
        family="opt",
        embedding="model.decoder.embed_tokens",
        layers="model.decoder.layers",
        heads="self_attn.out_proj",
        mlp=None,
        key_module="fc2",
        final_norm="model.decoder.final_layer_norm",
    ),
    replace(
        _LLAMA,
        family="phi",
        heads="self_attn.dense",
        key_module="mlp.fc2",
        final_norm="model.final_layernorm",
        parallel=True,
    ),
    replace(_BLOOM, family="falcon", attn="self_attention", mlp="mlp", parallel=True),
    _BLOOM,
    replace(
        _GPT2,
        family="mpt",
        layers="transformer.blocks",
        heads="attn.out_proj",
        mlp=None,
        key_module="ffn.down_proj",
        final_norm="transformer.norm_f",
    ),
)
UNSTATED_CONTEXT = 2048  # Bloom's ALiBi has no limit; it was trained on rows of this length
FAMILIES: tuple[str, ...] = tuple(architecture.family for architecture in _ARCHITECTURES)
"""Families that can be loaded, as transformers' `model_type`.  Pythia is `gpt_neox`."""
EDITABLE_FAMILIES: tuple[str, ...] = tuple(
    architecture.family for architecture in _ARCHITECTURES if architecture.key_module
)
"""Those with a down projection that an edit can be written into: all but mixtures of experts."""
_BY_FAMILY = {architecture.family: architecture for architecture in _ARCHITECTURES}


def architecture_named(family: str) -> Architecture:
    """The parts of a family.

    Raises:
        ValueError: if the family is not supported.
    """
    if family not in _BY_FAMILY:
        raise ValueError(
            f"the model family {family!r} is not supported; choose a model of one of the {len(FAMILIES)} families in "
            "docs/architectures.md, such as gpt2, llama, qwen3 or gemma3_text"
        )
    return _BY_FAMILY[family]


def architecture_of(module: Any) -> Architecture:
    """The parts of a loaded model; each is looked up once, so that a wrong name fails here.

    Raises:
        ValueError: if the family is not supported or the model lacks a part its family should have.
    """
    architecture = architecture_named(module.config.model_type)
    if architecture.family == "falcon":
        parallel = module.config.new_decoder_architecture or module.config.parallel_attn
        architecture = replace(architecture, parallel=bool(parallel))
    if architecture.family == "gpt_neox":
        head = "embed_out" if hasattr(module, "embed_out") else "lm_head"  # renamed in transformers 5
        architecture = replace(architecture, head=head, parallel=module.config.use_parallel_residual)
    if architecture.family == "granitemoehybrid" and module.config.num_local_experts:
        raise ValueError(
            "of the granitemoehybrid family only models without experts are supported, such as Granite 4.0 350M and 1B"
        )
    if architecture.mixer:
        blocks = enumerate(module.get_submodule(architecture.layers))
        mixed = frozenset(layer for layer, block in blocks if getattr(block, architecture.attn, None) is None)
        architecture = replace(architecture, mixed=mixed)
    paths = [architecture.embedding, architecture.head, architecture.attn_path(0), architecture.mlp_path(0)]
    paths += [] if 0 in architecture.mixed else [architecture.heads_path(0)]
    paths += [architecture.key_path(0)] if architecture.key_module else []
    paths += [f"{architecture.block(0)}.{architecture.mlp_norm}"] if architecture.mlp_norm else []
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            raise ValueError(
                f"{type(module).__name__} has no part {path!r}, which every {architecture.family} model should have"
            ) from None
    return architecture


def context_length(config: Any) -> int:
    """Longest sequence, in tokens, that a model of this configuration was made for."""
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None)), UNSTATED_CONTEXT)


def as_out_in(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight seen as `[d_out, d_in]`, and back again: transposing is its own inverse.

    GPT-2 stores its MLP weights `[d_in, d_out]` (Conv1D), everyone else `[d_out, d_in]` (Linear).  The module's
    type decides, not the shape, which says nothing for a square matrix.

    Args:
        module: the layer the weight belongs to.
        weight: its weight, or a matrix laid out like it; `[d_in, d_out]` or `[d_out, d_in]`.

    Returns:
        `[d_out, d_in]` for a stored weight, the stored layout for `[d_out, d_in]`; a view, not a copy.

    Raises:
        ValueError: if the module is neither Linear nor Conv1D.
    """
    from torch import nn  # here, so that the families can be listed without it
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return weight.T
    if isinstance(module, nn.Linear):
        return weight
    raise ValueError(f"the weight of a {type(module).__name__} has no known orientation; expected Linear or Conv1D")
