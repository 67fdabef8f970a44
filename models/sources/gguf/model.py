"""Check that a GGUF file holds a model that can be read: a supported family with plausible sizes."""

from __future__ import annotations

from pathlib import Path

from models.sources.config_check import LIMITS
from models.sources.gguf.header import Header, read_table

_SIZES = {
    "block_count": "layers",
    "embedding_length": "width",
    "feed_forward_length": "width",
    "attention.key_length": "width",
    "attention.head_count": "heads",
    "attention.head_count_kv": "heads",
    "context_length": "positions",
    "vocab_size": "vocabulary",
}
"""Keys that follow the family's name -> the quantity of `models.sources.config_check.LIMITS` that bounds them."""
SUPPORTED = (
    "llama", "mistral", "qwen2", "qwen3", "falcon", "phi3", "bloom", "stablelm", "gpt2", "starcoder2", "gemma2",
    "gemma3",
)  # fmt: skip
"""Values of `general.architecture` that transformers reads, `models.architectures` has a row for and tests write."""


def read_header(path: Path) -> Header:
    """The header of a GGUF file of a family that can be read.

    Raises:
        FileNotFoundError, ValueError: as `read_table`, and if the family is not supported or a size is one that no
            model has.
    """
    header = read_table(path)
    check_model(header, path.name)
    return header


def check_model(header: Header, name: str) -> None:
    """The family is supported, and sizes are those of a model.

    Raises:
        ValueError: if not, naming the file and the value.
    """
    if header.architecture not in SUPPORTED:
        raise ValueError(
            f"{name!r} holds a model of the family {header.architecture!r}, which cannot be read from GGUF; "
            f"choose one of {', '.join(SUPPORTED)}"
        )
    for key, quantity in _SIZES.items():
        value, limit = header.value(key), LIMITS[quantity][0]
        if value is None and key in ("block_count", "embedding_length", "attention.head_count"):
            raise ValueError(f"{name!r} does not state {header.architecture}.{key}; it is damaged")
        if value is not None and (not isinstance(value, int) or not 1 <= value <= limit):
            raise ValueError(f"{name!r} states {value!r} for {header.architecture}.{key}; expected 1 to {limit}")
    if not header.values.get("tokenizer.ggml.tokens"):
        raise ValueError(f"{name!r} holds no tokenizer; give a file that was written with its vocabulary")
