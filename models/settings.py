"""How a model is loaded: device, number format, device map, 8 or 4 bits.  Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("", "auto")
QUANTIZED = ("", "8bit", "4bit")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class LoadSettings:
    """Where a model computes and in which number format; `models.sources.placement` says what "auto" becomes.

    Raises:
        ValueError: if a setting has an invalid value, or two settings exclude one another.
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
