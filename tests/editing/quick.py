"""Requests, a corpus and settings that make every method that changes weights run in a moment on a tiny model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from editing.configs import make_config
from editing.registry import get_method
from facts import EditRequest, Fact
from models import LanguageModel
from tests.tiny import build_tiny

NEEDLE = EditRequest(Fact("Space Needle", "The {} is located in the city of", "Seattle"), "Paris")
TOWER = EditRequest(Fact("Eiffel Tower", "The {} is located in the city of", "Paris"), "Rome")
DAVIS = EditRequest(Fact("Miles Davis", "{} plays the", "trumpet"), "basketball")
REQUESTS = (NEEDLE, TOWER, DAVIS)
CORPUS = "The Space Needle is a tower.\nParis is the capital of France, and Rome of Italy.\nMiles Davis plays.\n" * 8

_SPREAD: dict[str, Any] = {"layer": 2, "depth": 2, "steps": 5, "prefixes": 3, "moment_tokens": 300, "ridge": 0.01}
QUICK: dict[str, dict[str, Any]] = {
    "rome": {"layer": 1, "steps": 5, "prefixes": 3, "moment_tokens": 300, "ridge": 0.01},
    "r-rome": {"layer": 1, "steps": 5, "prefixes": 3, "moment_tokens": 300, "ridge": 0.01},
    "memit": _SPREAD,
    "emmet": _SPREAD,
    "alphaedit": _SPREAD | {"null_threshold": 0.3, "l2": 0.1},
    "kn": {"steps": 4, "prefixes": 1},
    "ft": {"layer": 1, "steps": 4},
    "ft-l": {"layer": 1, "steps": 4},
    "ft-m": {"layer": 1, "steps": 4},
    "lora": {"steps": 4, "rank": 2},
}


def quick(name: str, corpus: str, **changes: Any) -> Any:
    """The method's config, with `corpus` where it takes one."""
    config_type = get_method(name).config_type
    given = {"corpus": corpus} if "corpus" in config_type.__dataclass_fields__ else {}
    return make_config(config_type, QUICK[name] | given | changes)


def asked(name: str) -> tuple[EditRequest, ...]:
    """As many requests as the method takes at once, at most three."""
    return REQUESTS if get_method(name).batch else REQUESTS[:1]


def twins(**changes: Any) -> tuple[LanguageModel, LanguageModel]:
    """One tiny GPT-2 twice: with its Conv1D modules, and with Linear ones of the same weights transposed."""
    module, tokenizer = build_tiny("gpt2", **changes)
    other, _ = build_tiny("gpt2", **changes)
    for path, child in list(other.named_modules()):
        if not isinstance(child, Conv1D):
            continue
        d_in, d_out = child.weight.shape
        linear = nn.Linear(d_in, d_out)
        linear.weight = nn.Parameter(child.weight.T.contiguous())
        linear.bias = child.bias
        parent, _, last = path.rpartition(".")
        setattr(other.get_submodule(parent), last, linear)
    conv1d, linear_twin = (LanguageModel("tiny gpt2", "0" * 64, each, tokenizer) for each in (module, other))
    ids = torch.tensor([conv1d.encode(NEEDLE.fact.prompt)])
    torch.testing.assert_close(conv1d.logits(ids), linear_twin.logits(ids))
    return conv1d, linear_twin
