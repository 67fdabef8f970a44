"""Tiny GGUF files, written as llama.cpp's converter writes them: its names, its layout, its constants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from tests.tiny import SENTENCES, VOCABULARY, tiny_tokenizer

# Widths that are multiples of 32, the length of a quantised block.
_ATTENTION = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {**_ATTENTION, "head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "qwen2": {**_ATTENTION, "head_dim": 16},
    "qwen3": {**_ATTENTION, "head_dim": 32, "rms_norm_eps": 1e-5},
    "gemma2": {
        **_ATTENTION,
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **_ATTENTION,
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
    "gpt2": {"n_inner": None, "hidden_size": 64, "layer_norm_epsilon": 1e-4},
    "phi3": {**_ATTENTION, "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0}},
    "stablelm": {
        **_ATTENTION,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "starcoder2": {
        **_ATTENTION,
        "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0},
    },
    "bloom": {"hidden_size": 64},
    "falcon": {"hidden_size": 64, "new_decoder_architecture": False, "multi_query": True, "ffn_hidden_size": 256},
}
"""Family -> changes of `tests.tiny`'s config: what a GGUF file of the family can state."""
NAMES = {"gemma3_text": "gemma3"}


def write_gguf(
    path: Path,
    module: Any,
    *,
    quantised: str = "F32",
    pre: str = "gpt-2",
    changed: dict[str, Any] | None = None,
    extra: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write a tiny module and the tiny tokenizer.

    Args:
        quantised: number format of the matrices.
        pre: the rule by which the tokenizer cuts texts.
        changed: key -> value to state in place of the module's own; None leaves the key out.
        extra: further tensors.
    """
    config = module.config
    name = NAMES.get(config.model_type, config.model_type)
    writer = GGUFWriter(str(path), name)
    for key, value in {**_constants(config, name), **(changed or {})}.items():
        _add(writer, key, value)
    (_write_pieces if name.startswith("gemma") else _write_bytes)(writer, pre)
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    form = GGMLQuantizationType[quantised]
    tied = set(module._tied_weights_keys or {}) if config.tie_word_embeddings else set()
    for full, tensor in module.state_dict().items():
        stem, _, suffix = full.rpartition(".")
        mapped = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))  # Bloom has no such prefix
        if mapped is None or full in tied:
            continue
        array = _as_llama_cpp(tensor.float().numpy(), f"{mapped}.{suffix}", config, name)
        matrix = array.ndim > 1 and quantised != "F32"
        data = gguf.quantize(array, form) if matrix else np.ascontiguousarray(array, np.float32)
        writer.add_tensor(f"{mapped}.{suffix}", data, raw_dtype=form if matrix else None)
    for key, array in (extra or {}).items():
        writer.add_tensor(key, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _constants(config: Any, name: str) -> dict[str, Any]:
    own = {
        "context_length": config.max_position_embeddings if hasattr(config, "max_position_embeddings") else 64,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": _first(config, "intermediate_size", "ffn_hidden_size", default=4 * config.hidden_size),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _first(config, "num_key_value_heads", default=None),
        "attention.layer_norm_rms_epsilon": _first(config, "rms_norm_eps", default=None),
        "attention.layer_norm_epsilon": _first(
            config, "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", default=None
        ),
        "attention.sliding_window": _first(config, "sliding_window", default=None),
        "attn_logit_softcapping": _first(config, "attn_logit_softcapping", default=None),
        "final_logit_softcapping": _first(config, "final_logit_softcapping", default=None),
    }
    if name == "falcon":
        own["attention.head_count_kv"] = 1
    if name.startswith(("gemma", "qwen3")):
        own |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if rope:
        own["rope.freq_base"] = float(rope["rope_theta"])
        width = _first(config, "head_dim", default=config.hidden_size // config.num_attention_heads)
        if name in ("llama", "stablelm", "phi3"):
            own["rope.dimension_count"] = int(width * rope.get("partial_rotary_factor", 1.0))
    return {f"{name}.{key}": value for key, value in own.items()}


def _first(config: Any, *names: str, default: Any) -> Any:
    return next((value for n in names if (value := getattr(config, n, None)) is not None), default)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)


def _write_pieces(writer: GGUFWriter, pre: str) -> None:
    """A sentencepiece vocabulary: special tokens, bytes, and the letters and some words of the tests."""
    letters = sorted({letter for text in SENTENCES for letter in text} - {" "})
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    tokens += ["\u2581S", "\u2581Sp", "\u2581Spa"]
    tokens += [f"<unused{i}>" for i in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _write_bytes(writer: GGUFWriter, pre: str) -> None:
    """The byte-level tokenizer of the tests."""
    tokenizer = tiny_tokenizer()
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in by_id])
    writer.add_token_types([3 if token.startswith("<|") else 1 for token, _ in by_id])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")


def _as_llama_cpp(array: NDArray[np.float32], name: str, config: Any, arch: str) -> NDArray[np.float32]:
    """The layout llama.cpp gives some weights (convert_hf_to_gguf.py)."""
    heads = config.num_attention_heads
    if arch == "llama" and ("attn_q." in name or "attn_k." in name):
        n = heads if "attn_q." in name else config.num_key_value_heads
        return array.reshape(n, 2, len(array) // n // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    if arch == "gpt2" and name.endswith(("attn_qkv.weight", "ffn_up.weight", "ffn_down.weight", "attn_output.weight")):
        return array.T
    if arch == "bloom" and "attn_qkv" in name:
        width = config.hidden_size // heads
        parts = torch.from_numpy(array).reshape(heads, 3, width, *array.shape[1:])
        return torch.cat([parts[:, i].reshape(heads * width, *array.shape[1:]) for i in range(3)]).numpy()
    return array
