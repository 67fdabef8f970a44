"""The options that say which model is loaded and how: one set for every command, for plans and for the page.

Nothing here imports torch, so a command can print its help at once.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.language_model import LanguageModel

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("", "auto")
QUANTIZED = ("", "8bit", "4bit")
NAMES = ("model", "device", "dtype", "device_map", "load", "chat")
"""What `add_model_options` adds, as attributes of the parsed options."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class LoadSettings:
    """Where a model computes and in which number format; `models.placement` says what "auto" becomes.

    Raises:
        ValueError: if a setting has a value that it cannot have, or two exclude one another.
    """

    device: str = "auto"
    """auto, cpu, cuda (or one card, such as cuda:1) or mps."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device_map: str = ""
    """"auto" lets accelerate spread the layers over all cards, the memory and the disk; empty for one device."""
    quantized: str = ""
    """"8bit" or "4bit", by the library bitsandbytes; empty for whole weights."""

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ValueError(f"the device is {self.device!r}; choose auto, cpu, mps, cuda or one card such as cuda:1")
        for setting, value, choices in (
            ("dtype", self.dtype, DTYPES),
            ("device map", self.device_map, DEVICE_MAPS),
            ("load", self.quantized, QUANTIZED),
        ):
            if value not in choices:
                listed = ", ".join(choice or "nothing" for choice in choices)
                raise ValueError(f"the {setting} is {value!r}; choose from {listed}")
        if self.device_map and self.device != "auto":
            raise ValueError(
                f"a device map places the layers itself, so the device cannot be {self.device!r}; leave out one of both"
            )

    def load(self, name: str | Path) -> LanguageModel:
        """The model of that name, loaded so.

        Raises:
            ValueError, FileNotFoundError: as `models.load_model`.
        """
        from models.load import load_model

        return load_model(name, dtype=self.dtype, device=self.device, device_map=self.device_map, load=self.quantized)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --device, --dtype, --device-map, --load and --chat."""
    parser.add_argument(
        "--model",
        default="reference",
        help="'reference', a name of the catalogue, a folder, a .gguf file or a hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, mps, cuda or one card such as cuda:1 (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="number format; auto is float32 on a CPU (default: %(default)s)"
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


def load_from(options: argparse.Namespace) -> LanguageModel:
    """The model that parsed options of `add_model_options` name.

    Raises:
        ValueError: if an option has a wrong value, the model cannot be loaded, or --chat is given and the model has no
            chat template.
        FileNotFoundError: if the model is not there.
    """
    settings = LoadSettings(options.device, options.dtype, options.device_map, options.load)
    return asked(settings.load(options.model), options.chat)


def asked(model: LanguageModel, chat: bool) -> LanguageModel:
    """The model, asked through its chat template where that is wanted.

    Raises:
        ValueError: if it is wanted and the model has none.
    """
    return model.as_chat() if chat else model
