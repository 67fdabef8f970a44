"""Turn a GGUF file into a folder of float32 safetensors: `python -m models.sources.convert FILE FOLDER`.

transformers takes many seconds to read a GGUF file and a second or two to read the folder, so a file is converted once.
Quantised weights are dequantised: what is written is the rounded model, exactly.  Runs in a process of its own, so that
it can be ended and its memory is given back.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from models.sources.config_check import check_config
from models.sources.folder import check_finite
from models.sources.gguf.config import complete, complete_tokenizer
from models.sources.gguf.header import Header
from models.sources.gguf.model import read_header
from models.sources.manifest import file_digest, write_manifest
from models.sources.store import CONVERSION


def convert(gguf: Path, folder: Path, about: dict[str, str]) -> None:
    """Write config, weights, tokenizer with its chat template, and manifest into a folder.

    Raises:
        ValueError: if the file is not a whole model of a supported family; in one sentence.
    """
    header = read_header(gguf)
    # alone in a folder: transformers also reads a config or an adapter that happens to lie beside the file
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / "model.gguf").symlink_to(gguf.absolute())
        options: dict[str, Any] = {"gguf_file": "model.gguf", "trust_remote_code": False, "local_files_only": True}
        config = AutoConfig.from_pretrained(alone, **options)
        complete(config, header, gguf)
        _check_size(config, header)
        module, info = AutoModelForCausalLM.from_pretrained(
            alone, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(alone, **options)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"it lacks {len(missing)} parameters, {missing[0]!r} among them; download it again")
    check_finite(module.named_parameters())
    complete_tokenizer(tokenizer, header)
    folder.mkdir(parents=True)
    _plain(module).save_pretrained(folder, max_shard_size="1000GB")
    tokenizer.save_pretrained(folder)
    write_manifest(
        folder,
        **about,
        conversion=CONVERSION,
        source_file=gguf.name,
        source_sha256=file_digest(gguf),
        origin=header.origin,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_size(config: Any, header: Header) -> None:
    """Refuse a file that states a larger model than it holds: its missing weights would be made up in memory."""
    check_config(config.to_dict())
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    stated = sum(parameter.numel() for parameter in module.parameters())
    if stated > header.n_elements:
        raise ValueError(
            f"its header states a model of {stated:,} parameters and it holds {header.n_elements:,}; download it again"
        )


def _plain(module: Any) -> Any:
    """The model without GGUF's entry in the config, which `save_pretrained` cannot write; the same tensors."""
    config = module.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(module)(type(module.config).from_dict(config))
    plain.load_state_dict(module.state_dict(), assign=True)
    plain.tie_weights()
    return plain


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), dict(fact.split("=", 1) for fact in sys.argv[3:]))
