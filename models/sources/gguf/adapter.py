"""A LoRA adapter as llama.cpp reads it: the base model's own tensor names with `.lora_a` and `.lora_b` behind them.

Format: llama.cpp, `convert_lora_to_gguf.py` and `src/llama-adapter.cpp`; a tensor pair adds (alpha / rank) B A.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

FAMILIES = {
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "mistral": "llama",
    "phi": "phi2",
    "cohere": "command-r",
}
"""transformers' names of families that llama.cpp calls otherwise."""
REORDERED = ("query_key_value", "q_proj", "k_proj")
"""Attention inputs that llama.cpp stores in another order for some families."""


def write_adapter(
    path: Path, family: str, n_layers: int, factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> None:
    """Write a file; it appears whole or not at all.

    Args:
        family: `config.model_type` of transformers.
        factors: path of a layer -> (B [d_out, rank], A [rank, d_in]), all of one rank.

    Raises:
        ValueError: if llama.cpp does not know the family or a weight, or keeps the weight in another order.
    """
    names = llama_names(family, n_layers, factors)
    rank = len(next(iter(factors.values()))[1])
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, FAMILIES.get(family, family))
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        for layer, (rows, cols) in factors.items():
            writer.add_tensor(f"{names[layer]}.weight.lora_a", np.ascontiguousarray(cols))
            writer.add_tensor(f"{names[layer]}.weight.lora_b", np.ascontiguousarray(rows))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def llama_names(family: str, n_layers: int, layers: Iterable[str]) -> dict[str, str]:
    """llama.cpp's name of each layer.

    Raises:
        ValueError: as `write_adapter`.
    """
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = known.get(FAMILIES.get(family, family))
    if arch is None:
        raise ValueError(
            f"what llama.cpp calls the weights of a {family!r} model is not known here; export a peft adapter instead"
        )
    table, names = gguf.get_tensor_name_map(arch, n_layers), {}
    for layer in layers:
        name = table.get_name(layer)
        if name is None or layer.endswith(REORDERED):
            raise ValueError(
                f"llama.cpp keeps the weight of {layer!r} under no name or in another order; "
                "export a peft adapter instead"
            )
        names[layer] = name
    return names
