"""What config.json of a model says, read without torch, and what it must not say, checked before anything is built."""

from __future__ import annotations

from typing import Any

from models.architectures import architecture_named

_QUERY_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_SHARED_HEADS = ("num_key_value_heads", "num_kv_heads")
WIDTH = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Where families keep these in config.json."""
MOST_LAYERS = 256
LIMITS = {
    "layers": (MOST_LAYERS, LAYERS),
    "width": (65_536, (*WIDTH, "intermediate_size", "n_inner", "ffn_dim", "word_embed_proj_dim", "head_dim")),
    "heads": (4096, (*_QUERY_HEADS, *_SHARED_HEADS)),
    "vocabulary": (2_000_000, ("vocab_size",)),
    "positions": (4_000_000, ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")),
}
"""Quantity -> largest accepted value and the config keys that give it.  200,000 layers would build for hours."""


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the language model: of one that sees pictures too, `text_config`."""
    part = config.get("text_config")
    return part if isinstance(part, dict) and value_of(config, LAYERS) is None else config


def value_of(config: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """What a config says of a quantity that families keep under different keys; None if nothing."""
    return next((config[key] for key in keys if config.get(key) is not None), None)


def check_config(whole: dict[str, Any]) -> None:
    """Refuse families that are not supported, models that bring code, and sizes no real model has.

    Raises:
        ValueError: as said, naming the value and what was expected.
    """
    import torch

    config = text_part(whole)
    if "auto_map" in whole or "auto_map" in config:
        raise ValueError("the model needs code of its own (auto_map in config.json), which is never run here")
    architecture_named(str(config.get("model_type", "")))
    if whole.get("use_bidirectional_attention") or config.get("use_bidirectional_attention"):
        raise ValueError(
            "the model's tokens also read what follows them (use_bidirectional_attention in config.json); expected one "
            "that continues a text"
        )
    if config is not whole and "quantization_config" in whole:
        raise ValueError(
            "the model sees pictures too and its weights are quantised (quantization_config in config.json); of such a "
            "model only unquantised weights are read"
        )
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
    width, heads, shared = (value_of(config, keys) for keys in (WIDTH, _QUERY_HEADS, _SHARED_HEADS))
    if width and heads and config.get("head_dim") is None and width % heads:
        raise ValueError(f"config.json says {heads} heads share a width of {width}; expected a number that divides it")
    if heads and shared and heads % shared:
        raise ValueError(
            f"config.json says {heads} query heads share {shared} key and value heads; expected a number that divides "
            f"{heads}"
        )
