"""What a result depends on besides its settings: the model, its tokenizer, the device and the libraries."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models import LanguageModel

LIBRARIES = ("torch", "transformers", "tokenizers", "nnsight", "numpy")


def identity_of(model: LanguageModel | None) -> dict[str, Any]:
    """The model and libraries as they enter every cell's key.

    Weights are identified by their hash, since a name may later stand for others.  Library versions count to the minor
    number: a patch release is assumed to compute the same.
    """
    identity: dict[str, Any] = {"libraries": {name: _minor(version(name)) for name in LIBRARIES}}
    identity["libraries"]["python"] = _minor(platform.python_version())
    if model is None:
        return identity
    return (
        identity
        | ({"chat": True} if model.chat else {})
        | {
            "model": model.name,
            "weights_sha256": model.revision,
            "tokenizer_sha256": hashlib.sha256(model.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attention": str(model.module.config._attn_implementation),
        }
    )


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Differences between two identities, one phrase each: "torch 2.13 instead of 2.12"."""
    flat_expected, flat_actual = _flat(expected), _flat(actual)
    return [
        f"{name} {flat_actual.get(name)} instead of {flat_expected.get(name)}"
        for name in sorted(flat_expected.keys() | flat_actual.keys())
        if flat_expected.get(name) != flat_actual.get(name)
    ]


def _flat(identity: dict[str, Any]) -> dict[str, str]:
    inner = identity.get("libraries", {})
    outer = {name: str(value)[:24] for name, value in identity.items() if name != "libraries"}
    return outer | {name: str(value) for name, value in inner.items()}


def _minor(full: str) -> str:
    return ".".join(full.partition("+")[0].split(".")[:2])
