"""What config.json of a model must not say, checked before anything is built from it."""

from __future__ import annotations

from typing import Any

import torch

from models.architectures import architecture_named

_QUERY_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_SHARED_HEADS = ("num_key_value_heads", "num_kv_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model")
LIMITS = {
    "layers": (256, ("num_hidden_layers", "n_layer", "num_layers", "n_layers")),
    "width": (65_536, (*_WIDTH, "intermediate_size", "n_inner", "ffn_dim", "word_embed_proj_dim", "head_dim")),
    "heads": (4096, (*_QUERY_HEADS, *_SHARED_HEADS)),
    "vocabulary": (2_000_000, ("vocab_size",)),
    "positions": (4_000_000, ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")),
}
"""Quantity -> largest accepted value and the config keys that give it.  200,000 layers would build for hours."""


def check_config(config: dict[str, Any]) -> None:
    """Refuse families that are not supported, models that bring code, and sizes no real model has.

    Raises:
        ValueError: as said, naming the value and what was expected.
    """
    if "auto_map" in config:
        raise ValueError("the model needs code of its own (auto_map in config.json), which is never run here")
    architecture_named(str(config.get("model_type", "")))
    for quantity, (limit, keys) in LIMITS.items():
        for key in keys:
            value = config.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"config.json says {key} is {value!r}; expected a whole number of at least 1")
            if value > limit:
                raise ValueError(f"config.json says {value} {quantity} ({key}); at most {limit} are taken")
    _check_heads(config)
    for key in ("dtype", "torch_dtype"):
        dtype = config.get(key)
        if dtype is not None and not (isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)):
            raise ValueError(f"config.json says {key} is {dtype!r}; expected a number format such as 'float32'")


def _check_heads(config: dict[str, Any]) -> None:
    """Heads share the width evenly, and query heads the key and value heads."""
    width, heads, shared = (
        next((config[key] for key in keys if config.get(key) is not None), None)
        for keys in (_WIDTH, _QUERY_HEADS, _SHARED_HEADS)
    )
    if width and heads and config.get("head_dim") is None and width % heads:
        raise ValueError(f"config.json says {heads} heads share a width of {width}; expected a number that divides it")
    if heads and shared and heads % shared:
        raise ValueError(
            f"config.json says {heads} query heads share {shared} key and value heads; expected a number that divides "
            f"{heads}"
        )
