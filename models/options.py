"""Command-line options for the model and how it is loaded.

Nothing here imports torch, so commands print their help at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from models.settings import DEVICE_MAPS, DTYPES, QUANTIZED, LoadSettings

if TYPE_CHECKING:
    from models.language_model import LanguageModel

NAMES = ("model", "device", "dtype", "device_map", "load", "chat")
"""What `add_model_options` adds, as attributes of the parsed options."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --device, --dtype, --device-map, --load and --chat."""
    parser.add_argument(
        "--model",
        type=_named,
        default="reference",
        help="'reference', a name of the catalogue, a folder, a .gguf file or a hub id (default: reference)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, mps, cuda or one card such as cuda:1 (default: auto)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="number format; auto is float32 on a CPU (default: auto)"
    )
    parser.add_argument(
        "--device-map", choices=DEVICE_MAPS[1:], default="", help="spread the layers over all cards, memory and disk"
    )
    parser.add_argument(
        "--load",
        choices=QUANTIZED[1:],
        default="",
        help="hold the weights in so many bits; such a model is traced only",
    )
    parser.add_argument(
        "--chat", action="store_true", help="ask through the tokenizer's chat template, as an instruct model expects"
    )


def _named(text: str) -> str:
    """What `load_model` takes: the full path of a folder or file above this one."""
    return str(Path(text).resolve()) if text.startswith("../") else text


def load_from(options: argparse.Namespace) -> LanguageModel:
    """The model that parsed options of `add_model_options` name.

    Raises:
        ValueError: if an option has a wrong value, the model cannot be loaded, or --chat is given and the model has no
            chat template.
        FileNotFoundError: if the model is not there.
    """
    settings = LoadSettings(options.device, options.dtype, options.device_map, options.load)
    return load_as(options.model, settings, options.chat)


def load_as(name: str, settings: LoadSettings, chat: bool = False) -> LanguageModel:
    """The model of that name, loaded by these settings; with `chat` it is asked through its chat template.

    Raises:
        ValueError, FileNotFoundError: as `load_from`.
    """
    from models.sources.load import load_model

    model = load_model(
        name, dtype=settings.dtype, device=settings.device, device_map=settings.device_map, load=settings.quantized
    )
    return model.as_chat() if chat else model
