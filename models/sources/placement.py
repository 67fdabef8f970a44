"""Where a model computes and in which number format: what "auto" becomes, and what 8 and 4 bits need.

`auto` as device is cuda if there is a card, else cpu; mps has to be named, since it lacks float64, in which edits are
solved.  `auto` as dtype is float32, except on a CUDA card
where the weights alone would take more than half of its memory in float32: there it is bfloat16.  The rule looks at
the card's whole memory, not at what is free, so that the same command gives the same numbers on a busy card.  In 8 or
4 bits what is not quantised is bfloat16 unless stated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from models.settings import LoadSettings

FLOAT32_SHARE = 0.5
"""Share of the memory of the card that weights in float32 may take before `auto` chooses bfloat16."""


@dataclass(frozen=True)
class Placement:
    """How a model is loaded."""

    dtype: torch.dtype
    device: torch.device | None
    """Where the module is moved once loaded; None where the loader places it."""
    options: dict[str, Any]
    """Further arguments of transformers' `from_pretrained`."""


def place(settings: LoadSettings, n_parameters: Callable[[], int]) -> Placement:
    """The placement that these settings give on this machine.

    Args:
        n_parameters: how many the model has; asked only where the rule for `auto` needs it.

    Raises:
        ValueError: if the device is not here, or the library that quantises is not installed.
    """
    device = _device(settings.device)
    dtype = _dtype(settings, device, n_parameters)
    if settings.quantized:
        spread = settings.device_map or {"": str(device)}  # quantised weights cannot be moved afterwards
        return Placement(dtype, None, {"device_map": spread, "quantization_config": _bits(settings.quantized, dtype)})
    if settings.device_map:
        return Placement(dtype, None, {"device_map": settings.device_map})
    return Placement(dtype, device, {})


def _device(name: str) -> torch.device:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device("cuda" if here["cuda"] else "cpu")
    device = torch.device(name)
    if not here[device.type] or (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise ValueError(
            f"the device {name!r} is not available: PyTorch finds {', '.join(k for k, there in here.items() if there)} "
            "here; choose one of these, or auto"
        )
    return device


def _dtype(settings: LoadSettings, device: torch.device, n_parameters: Callable[[], int]) -> torch.dtype:
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if settings.quantized:
        return torch.bfloat16
    if device.type == "cuda":
        cards = range(torch.cuda.device_count()) if settings.device_map else [device]
        memory = sum(torch.cuda.get_device_properties(card).total_memory for card in cards)
        if 4 * n_parameters() > FLOAT32_SHARE * memory:
            return torch.bfloat16
    return torch.float32


def _bits(bits: str, dtype: torch.dtype) -> Any:
    """transformers' settings for bitsandbytes.

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"loading in {bits} needs the library bitsandbytes, which is not installed; "
            "run `pip install bitsandbytes`, or load the model whole"
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every layer of every pass that it casts
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
