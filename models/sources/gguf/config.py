"""What a GGUF file states about its model and transformers leaves out, put into the config; or refused.

transformers 5.23 reads sizes and some constants, and takes its own defaults for the rest: a file that states other
values would then load without complaint and answer wrongly.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from models.sources.gguf.header import Header

_CONSTANTS = {
    "context_length": ("max_position_embeddings",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
"""Key of the file behind the family's name -> names that configs give it."""
_WIDE = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose attention is scaled by d_model / heads in place of the head's width (llama.cpp)."""
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_CONTEXT = 8192
_BYTES = {"add_prefix_space": False}


def complete(config: Any, header: Header, gguf: Path) -> None:
    """Write into a config what the file states and transformers did not take over.

    Raises:
        ValueError: if the file scales its rotary positions in a way that is not known here.
    """
    for key, names in _CONSTANTS.items():
        value = header.value(key)
        for name in names:
            if isinstance(value, int | float) and hasattr(config, name):
                setattr(config, name, value)
    if hasattr(config, "query_pre_attn_scalar"):
        wide = config.num_hidden_layers == _WIDE.get(header.architecture)
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if wide else config.head_dim
    parameters = getattr(config, "rope_parameters", None)
    if parameters:
        _rotary(parameters.get("full_attention", parameters), config, header, gguf)


def _rotary(parameters: dict[str, Any], config: Any, header: Header, gguf: Path) -> None:
    """Base, width and scaling of the rotary positions; of the full attention where a model has two kinds."""
    if header.value("rope.freq_base") is not None:
        parameters["rope_theta"] = float(header.value("rope.freq_base"))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = header.value("rope.dimension_count")
    if turned is not None and turned != width:
        parameters["partial_rotary_factor"] = turned / width
    kind = header.value("rope.scaling.type") or "none"
    if kind == "linear":
        parameters |= {"rope_type": "linear", "factor": float(header.value("rope.scaling.factor") or 1.0)}
    factors = [tensor.name for tensor in header.tensors if tensor.name.startswith("rope_")]
    if factors == ["rope_freqs.weight"] and kind == "none":
        parameters |= _llama3(_tensor(gguf, factors[0]), parameters["rope_theta"], width)
    elif factors or kind not in ("none", "linear"):
        raise ValueError(
            f"the file scales its rotary positions ({kind if kind != 'none' else factors[0]}), which is not read from "
            "GGUF here; load the model's safetensors folder"
        )


def _llama3(divisors: NDArray[np.float32], theta: float, width: int) -> dict[str, Any]:
    """Llama 3's scaling (3.1 and later), for which a file gives the divisor of each frequency.

    Raises:
        ValueError: if the divisors are not those of that scaling.
    """
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    turns = _LLAMA3_CONTEXT * frequencies / (2 * math.pi)  # within the context the model was first trained on
    low, high, factor = 1.0, 4.0, float(divisors.max())
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(
            "the file scales its rotary positions in a way that is not Llama 3's; load the model's safetensors folder"
        )
    return {**_LLAMA3, "factor": factor, "original_max_position_embeddings": _LLAMA3_CONTEXT}


def _tensor(gguf: Path, name: str) -> NDArray[np.float32]:
    return next(np.asarray(tensor.data, np.float32) for tensor in GGUFReader(gguf).tensors if tensor.name == name)


def _digits_apart() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(**_BYTES)])


def _split(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**_BYTES, use_regex=False)])


def _falcon() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(**_BYTES),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated"),
        ]
    )


_SPLITS = {
    "smollm": _digits_apart,
    "starcoder": _digits_apart,
    "refact": _digits_apart,
    "falcon": _falcon,
    "bloom": lambda: _split(r" ?[^(\s|[.,!?…。，、।۔،])]+"),
    "stablelm2": lambda: _split(GGUF_PRE_TOKENIZER_SPLITS["qwen2"]),
}
"""`tokenizer.ggml.pre` -> how byte-level vocabularies cut a text before merging, where transformers does not know it;
as in the tokenizer.json of the models these names stand for."""
_AS_GPT2 = (None, "default", "gpt-2", "gpt2", "mpt", "olmo", "jais")


def complete_tokenizer(tokenizer: Any, header: Header) -> None:
    """Cut texts as the file says, where transformers does not know how.

    Raises:
        ValueError: if the file names a way of cutting that is not known here; tokens would differ from the model's.
    """
    name = header.values.get("tokenizer.ggml.pre")
    if header.values.get("tokenizer.ggml.model") != "gpt2" or name in _AS_GPT2 or name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if name not in _SPLITS:
        raise ValueError(
            f"the file's tokenizer cuts texts by the rule {name!r}, which is not known here; "
            "load the model's safetensors folder"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = _SPLITS[name]()
