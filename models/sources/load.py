"""From a name to a `LanguageModel`: bundled, from the catalogue, a folder, a GGUF file, or a model of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from models.language_model import LanguageModel
from models.settings import LoadSettings
from models.sources.catalogue import ENTRIES, REFERENCE_FOLDER, folder_of
from models.sources.config_check import text_part
from models.sources.folder import check_finite, check_folder, folder_digest, n_parameters
from models.sources.gguf.files import folder_of_gguf, is_gguf
from models.sources.hub import cached_or_downloaded
from models.sources.manifest import check_manifest, read_manifest
from models.sources.placement import Placement, place

REFERENCE = "reference"
"""Name of the bundled model."""
TEXT_ALONE = {
    r"^(model\.)?(language|text)_model\.(model\.)?(?!lm_head)": "model.",
    r"^language_model\.lm_head": "lm_head",
}
"""Names of the text model's weights, in a checkpoint that sees pictures too -> alone."""
_REASON_LENGTH = 300
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


def load_model(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: str = "",
    load: str = "",
) -> LanguageModel:
    """Load a model in evaluation mode, from safetensors alone and without running code that comes with it.

    Args:
        name: "reference" for the bundled model, a name of the catalogue that was fetched (`python -m models list`), a
            folder (an absolute path, or one that begins with ./ or ~), the path of a .gguf file, or a hub id such as
            `gpt2` or `EleutherAI/pythia-70m`.  A GGUF file is converted on first use, into the cache.  A hub id is
            taken from the local cache, and downloaded only if it is not there.
        dtype, device, device_map, load: as in `models.settings.LoadSettings`; `models.sources.placement` says what
            "auto" is.

    Raises:
        ValueError: if the name is no such thing, what stands there cannot be loaded safely or whole, or a setting has
            a value that it cannot have on this machine.
        FileNotFoundError: if the folder does not exist, or the model is neither cached nor to be had.
    """
    settings = LoadSettings(str(device), str(dtype).removeprefix("torch."), device_map, load)
    folder, remedy = _folder_of(name)
    digests = check_manifest(folder, remedy) if remedy else {}
    origin = str(read_manifest(folder, remedy).get("origin", "")) if remedy else ""
    config = check_folder(folder)
    part_of = "" if text_part(config) is config else str(config.get("model_type"))
    placement = place(settings, lambda: n_parameters(folder))
    module, tokenizer = _read(folder, placement, bool(part_of))
    if placement.device is not None:
        module.to(placement.device)
    revision = folder_digest(folder, str(placement.dtype), *filter(None, [load]), known=digests)
    return LanguageModel(str(name), revision, module, tokenizer, origin=origin, part_of=part_of)


def _folder_of(name: str | Path) -> tuple[Path, str]:
    """(folder with the model's files, advice if they do not match their manifest; "" without a manifest).

    A bare word never names a folder, so that no folder can pass for a hub model.
    """
    text = str(name)
    if name == REFERENCE:
        if not REFERENCE_FOLDER.is_dir():
            raise FileNotFoundError("the reference model's weights are missing; run `python -m models.reference.train`")
        return REFERENCE_FOLDER, "restore it with `git checkout`"
    if text in ENTRIES and ENTRIES[text].source == "bundled":
        return folder_of(text), ""
    if text in ENTRIES and ENTRIES[text].source == "index":
        return folder_of(text), f"run `python -m models get {text}` again"
    if is_gguf(text) and "\0" not in text:
        folder = folder_of_gguf(Path(text).expanduser())
        return folder, f"run `python -m models remove {folder.name}` and load the GGUF file again"
    if "\0" in text or ".." in Path(text).parts:
        raise ValueError(f"{text!r} is not a model name; expected 'reference', a hub id or a folder's full path")
    if isinstance(name, Path) or text.startswith(("/", "./", "~")):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {text!r}; give the folder that holds config.json")
        return folder, ""
    if not _HUB_ID.fullmatch(text):
        raise ValueError(f"{text!r} is not a model name; expected 'reference', a hub id or a folder's full path")
    return cached_or_downloaded(text), ""


def _read(folder: Path, placement: Placement, part: bool) -> tuple[Any, Any]:
    """Module and tokenizer of a folder that was checked."""
    try:
        with _quiet():
            module, info = _module(folder, placement, part)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing narrower, and a config can break a library in any way
        reason = " ".join(str(error).split())[:_REASON_LENGTH] or type(error).__name__
        raise ValueError(f"the model in {str(folder)!r} cannot be loaded: {reason}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"the weights in {str(folder)!r} lack {len(missing)} parameters, {missing[0]!r} among them; "
            "config.json and weights belong to different models"
        )
    check_finite(module.named_parameters())
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer in {str(folder)!r} is not a fast one; add its tokenizer.json")
    return module, tokenizer


def _check_size(folder: Path, config: Any) -> None:
    """Refuse a model that states far more than the weights hold: what is missing would be made up in memory."""
    width, held = int(config.hidden_size), n_parameters(folder)
    # an attention's output and an embedding are the least that any family has, also where eight numbers share one
    least = config.num_hidden_layers * width**2 + config.vocab_size * getattr(config, "word_embed_proj_dim", width)
    if least > held:
        raise ValueError(
            f"config.json states, or leaves to its family's defaults, a model of more than {least:,} parameters, but "
            f"the weights hold {held:,}; add what config.json lacks"
        )


def _module(folder: Path, placement: Placement, part: bool) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {
        "dtype": placement.dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        **placement.options,
    }
    whole = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    config = options["config"] = whole.get_text_config() if part else whole
    if part:
        config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", config.tie_word_embeddings)
        options["key_mapping"] = TEXT_ALONE
    _check_size(folder, config)
    try:
        module, info = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        # GPT-Neo and GPT-J have no such attention
        module, info = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)
    if part:
        del module._weight_conversions  # saved alone, it keeps the names that it has alone
    return module, info


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports; this module checks what they report."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
