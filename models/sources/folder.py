"""What a model folder must hold before anything in it is built, and the hash that names what it held."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facts.regular import check_regular
from models.sources.config_check import check_config
from models.sources.manifest import file_digest, is_lfs_pointer, read_json
from models.sources.patterns import may_hang

_ADAPTER = "adapter_config.json"
"""Of peft; transformers puts such an adapter on the model beside it without a word."""
_MAX_TOKENIZER_BYTES = 200_000_000
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
_VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
_NOTES = "__metadata__"  # of a safetensors file: text, not a tensor
_TEXT_FILES = ("tokenizer*", "vocab.json", "merges.txt", "chat_template*")
"""Files that decide how a text is read, as patterns."""


def check_folder(folder: Path) -> dict[str, Any]:
    """Check config and weight files without building anything.

    Returns:
        The parsed config.json.

    Raises:
        ValueError: if something is missing, too large, not safetensors or not the file it should be.
    """
    for path in folder.iterdir():
        if not path.is_dir():
            check_regular(path, "remove it from the model's folder")
    config = _config(folder)
    check_config(config)
    if (folder / _ADAPTER).exists():
        raise ValueError(
            f"{str(folder)!r} holds an adapter ({_ADAPTER}) beside a model; load both with peft, save what its "
            "`merge_and_unload` gives in a folder and load that, or take the adapter away"
        )
    for path in weight_files(folder):
        _check_safetensors(path)
    _check_tokenizer(folder)
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted.

    Raises:
        ValueError: if there is none, or one named by the index is missing.
    """
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{str(folder)!r} has only pickle weights ({pickles[0]}), which can run code; "
                "save them as safetensors with `save_pretrained` and load that folder"
            )
        raise ValueError(f"{str(folder)!r} holds no model.safetensors; give a folder written by `save_pretrained`")
    mapped = read_json(index).get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        raise ValueError(f"{index.name!r} does not map parameters to files (weight_map); download the model again")
    names = sorted(set(mapped.values()))
    missing = [name for name in names if "/" in name or not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(f"{str(folder)!r} lacks the weight file {missing[:1]}; download the model again")
    return [folder / name for name in names]


def _check_tokenizer(folder: Path) -> None:
    # without any of these transformers makes up a tokenizer that knows no words
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ValueError(f"{str(folder)!r} holds no tokenizer; add its tokenizer.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        for pattern in _patterns(read_json(path, _MAX_TOKENIZER_BYTES)):
            if may_hang(pattern):
                raise ValueError(
                    f"the tokenizer in {str(folder)!r} cuts texts by the pattern {pattern[:80]!r}, which can take for "
                    "ever on some texts; use the tokenizer.json that the model was published with"
                )


def _patterns(value: Any) -> Iterator[str]:
    """Every regular expression in a tokenizer.json, at any depth."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if isinstance(value.get("Regex"), str):
                yield value["Regex"]
            stack += [part for part in value.values() if isinstance(part, dict | list)]
        elif isinstance(value, list):
            stack += [part for part in value if isinstance(part, dict | list)]


def check_finite(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that are no numbers: every answer would be NaN, and nothing would say why.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, weight in named:
        if weight.is_meta or not weight.is_floating_point():
            continue  # accelerate keeps it elsewhere, or it is quantised
        # the sum of finite numbers may overflow, so it only says where to look
        if not bool(weight.sum(dtype=torch.float32).isfinite()) and not bool(weight.isfinite().all()):
            raise ValueError(f"the weights hold NaN or infinite numbers, in {name!r}; download the model again")


def folder_digest(folder: Path, *also: str, known: Mapping[str, str] | None = None) -> str:
    """sha256 over weights, config, tokenizer and chat template, and over whatever else changes the numbers (the dtype).

    Args:
        known: file name -> sha256, where `check_manifest` has just computed it.
    """
    digest, digests = hashlib.sha256(" ".join(also).encode()), known or {}
    small = [folder / "config.json", *(path for pattern in _TEXT_FILES for path in sorted(folder.glob(pattern)))]
    for path in [*small, *weight_files(folder)]:
        if path.is_file():
            digest.update(f"{path.name} {digests.get(path.name) or file_digest(path)} ".encode())
    return digest.hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / _ADAPTER).exists():
            raise ValueError(
                f"{str(folder)!r} holds an adapter alone; load it onto its model with peft, save what its "
                "`merge_and_unload` gives in a folder and load that"
            )
        raise ValueError(f"{str(folder)!r} holds no config.json; give a folder written by `save_pretrained`")
    return read_json(path)


def n_parameters(folder: Path) -> int:
    """Numbers in the weights of a checked folder, by the headers of its files."""
    return sum(map(_check_safetensors, weight_files(folder)))


def _check_safetensors(path: Path) -> int:
    """How many numbers the file holds; its header must be JSON, and the tensors it names must end where it ends."""
    if is_lfs_pointer(path):
        raise ValueError(f"{path.name!r} is a git-lfs pointer, not the file; run `git lfs pull`")
    size = path.stat().st_size
    broken = f"{path.name!r} is not a whole safetensors file; download the model again"
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(broken)
        try:
            header: dict[str, Any] = json.loads(file.read(header_bytes))
            tensors = [entry for name, entry in header.items() if name != _NOTES]
            end = max(int(entry["data_offsets"][1]) for entry in tensors)
            numbers = sum(math.prod(map(int, entry["shape"])) for entry in tensors)
        except (ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            raise ValueError(broken) from None
    if 8 + header_bytes + end != size:
        raise ValueError(broken)
    return numbers
