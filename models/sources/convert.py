"""Turn a GGUF file into a folder of float32 safetensors: `python -m models.sources.convert FILE FOLDER`.

transformers takes many seconds to read a GGUF file and a second or two to read the folder, so a file is converted once.
Quantised weights are dequantised: what is written is the rounded model, exactly.  Runs in a process of its own, so that
it can be ended and its memory is given back.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.folder import check_config
from models.manifest import file_digest, write_manifest

_UNROUNDED = ("F64", "F32", "F16", "BF16")


def convert(gguf: Path, folder: Path, about: dict[str, str]) -> None:
    """Write config, weights, tokenizer with its chat template, and manifest into a folder.

    Raises:
        ValueError: if the file is not a model of a supported family.
    """
    module, tokenizer = _read(gguf)
    config = module.config.to_dict()
    config.pop("quantization_config", None)  # save_pretrained cannot write GGUF's
    check_config(config)
    with torch.device("meta"):
        plain = type(module)(type(module.config).from_dict(config))
    plain.load_state_dict(module.state_dict(), assign=True)
    plain.tie_weights()
    folder.mkdir(parents=True)
    plain.save_pretrained(folder, max_shard_size="1000GB")
    tokenizer.save_pretrained(folder)
    write_manifest(
        folder,
        **about,
        source_file=gguf.name,
        source_sha256=file_digest(gguf),
        origin=origin(gguf),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read(gguf: Path) -> tuple[Any, Any]:
    # alone in a folder: transformers also reads a config or an adapter that happens to lie beside the file
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / "model.gguf").symlink_to(gguf.absolute())
        options: dict[str, Any] = {"gguf_file": "model.gguf", "trust_remote_code": False, "local_files_only": True}
        module = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **options)
        return module, AutoTokenizer.from_pretrained(alone, **options)


def origin(gguf: Path) -> str:
    """What the weights were before: the number formats of the matrices, the most frequent first."""
    counts: Counter[str] = Counter()
    for tensor in GGUFReader(gguf).tensors:
        if len(tensor.shape) > 1:
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
    formats = [name for name, _ in counts.most_common()]
    listed = " and ".join(filter(None, [", ".join(formats[:-1]), formats[-1]]))
    return f"{'converted' if set(formats) <= set(_UNROUNDED) else 'dequantised'} from {listed}"


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), dict(fact.split("=", 1) for fact in sys.argv[3:]))
