"""Which models the page offers: the bundled one, fetched ones, those on disk, and those `ENGRAM_MODELS` adds.

There is no free text box, because it would mean "download and load anything".  `ENGRAM_MODELS` adds folders and .gguf
files: `ENGRAM_MODELS="gpt2=/data/gpt2,mine=/data/mine.gguf" python -m app`.  Sizes come from config.json and the
catalogue, so that the page can be drawn before torch is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.server import limits
from models.architectures import architecture_named
from models.cards import LayerChoice, Size, layer_choice
from models.settings import LoadSettings
from models.sources import catalogue
from models.sources.config_check import LAYERS, MOST_LAYERS, WIDTH, text_part, value_of
from models.sources.gguf.files import converted_folders, is_gguf
from models.sources.hub import cached, cached_names
from models.sources.manifest import MANIFEST, read_json

REFERENCE = "reference"
OFFERED = "ENGRAM_OFFERED"
"""The variable that names the only models to offer, as a class needs it."""
DTYPES = ("float32", "bfloat16", "float16")
CHAT = "|chat"
"""End of a model's key where it is asked in its chat template."""
AS_USUAL = LoadSettings(dtype="float32")
"""The same on every computer, so that a link gives the same numbers."""


@dataclass(frozen=True)
class Choice:
    """One model of the list."""

    name: str
    source: str
    """What `load_model` takes: a name of the catalogue, a full path, or a hub id."""
    n_layers: int
    title: str = ""
    origin: str = ""
    """What its weights were made from, if they are not the published ones: "dequantised from Q4_1"."""
    family: str = ""
    """`config.model_type`; empty where it is read only with the weights."""
    d_model: int = 0
    settings: LoadSettings = AS_USUAL
    chat: bool = False
    """Asked in its chat template."""

    @property
    def size(self) -> Size:
        """By which layer cards and published layers are found."""
        return self.family, self.n_layers, self.d_model

    @property
    def usual(self) -> LayerChoice:
        """The layer to edit before there is a trace: a card's, else a published one, else one by depth."""
        return layer_choice(*self.size)

    @property
    def place(self) -> str:
        """Its folder, or its hub id."""
        return str(catalogue.folder_of(self.source)) if self.source in catalogue.ENTRIES else self.source

    @property
    def shown(self) -> str:
        """Its name on the page."""
        return self.title or self.name

    @property
    def key(self) -> str:
        """The name, with device, number format and chat where they are not the defaults; part of every question."""
        return self.weights_key + (CHAT if self.chat else "")

    @property
    def weights_key(self) -> str:
        """The key without the chat template: edits belong to the weights."""
        settings = self.settings
        return self.name if settings == AS_USUAL else f"{self.name}|{settings.device}|{settings.dtype}"

    def loaded_with(self, device: str, dtype: str) -> Choice:
        """The same model with this device and number format."""
        return replace(self, settings=LoadSettings(device, dtype))


@dataclass(frozen=True)
class Offer:
    """What the page can load now."""

    models: dict[str, Choice]
    """By name, the bundled one first."""
    unusable: tuple[str, ...]
    """A sentence for each entry of `ENGRAM_MODELS` that cannot be offered."""


def choices() -> dict[str, Choice]:
    """The models on offer by name, the bundled one first."""
    return offer().models


def choice_of(key: str) -> Choice:
    """The model of a key.

    Raises:
        ValueError: if it is not on offer.
    """
    in_chat = key.endswith(CHAT)
    key = key.removesuffix(CHAT)
    name, device, dtype = key.rsplit("|", 2) if key.count("|") >= 2 else (key, AS_USUAL.device, AS_USUAL.dtype)
    if limits.public() and LoadSettings(device, dtype) != AS_USUAL:
        raise ValueError(f"this server loads its models as {AS_USUAL.dtype} alone; choose that number format")
    offered = choices()
    if name not in offered:
        raise ValueError(f"the model {name!r} is not offered here; choose from {', '.join(offered)}")
    return replace(offered[name].loaded_with(device, dtype), chat=in_chat)


def offer() -> Offer:
    """The models that need no download, and the entries of `ENGRAM_MODELS` that cannot be used."""
    listed = {
        entry.name: Choice(
            entry.name, entry.name, entry.n_layers, entry.title, entry.origin, entry.family, entry.d_model
        )
        for entry in catalogue.ENTRIES.values()
        if catalogue.is_fetched(entry.name)
    }
    wanted = os.environ.get(OFFERED)
    if limits.public() and not wanted:
        listed = {name: choice for name, choice in listed.items() if catalogue.ENTRIES[name].source == "bundled"}
    else:
        listed |= _found_here(listed)
    unusable = []
    for entry in filter(str.strip, os.environ.get("ENGRAM_MODELS", "").split(",")):
        try:
            added = _added(entry.strip())
        except ValueError as error:
            unusable.append(str(error))
        else:
            listed[added.name] = added
    if wanted:
        listed = {name: listed[name] for name in wanted.split(",") if name in listed}
    return Offer(listed, tuple(unusable))


def _found_here(listed: Container[str]) -> dict[str, Choice]:
    """Models of the hub's cache and those made from GGUF files."""
    cached_here = {choice.name: choice for name in cached_names() if name not in listed for choice in _cached(name)}
    converted = converted_folders().items()
    return cached_here | {choice.name: choice for name, folder in converted for choice in _converted(name, folder)}


def _cached(hub_id: str) -> Iterator[Choice]:
    """A model of the hub's cache, if it is one that continues text and whole enough to be offered."""
    folder = cached(hub_id)
    if folder is not None:
        with suppress(ValueError, OSError):
            config = _config(folder)
            kinds = config.get("architectures")
            continues = isinstance(kinds, list) and str(*kinds[:1]).endswith(("ForCausalLM", "LMHeadModel"))
            if continues or text_part(config) is not config:
                yield _configured(hub_id, hub_id, config)


def _converted(name: str, folder: Path) -> Iterator[Choice]:
    """What was made from a GGUF file, if it is whole."""
    with suppress(ValueError, OSError):
        origin = str(read_json(folder / MANIFEST).get("origin", ""))
        title = f"{name.rpartition('-')[0]}.gguf"  # the name ends in the file's digest
        yield _configured(name, str(folder), _config(folder), title, origin)


def _added(entry: str) -> Choice:
    """One entry of `ENGRAM_MODELS`.

    Raises:
        ValueError: naming it and what is wrong with it.
    """
    name, equals, place = (part.strip() for part in entry.partition("="))
    if not equals or not name or not place or "|" in name:
        raise ValueError(f"ENGRAM_MODELS holds {entry!r}; write NAME=FOLDER, as in gpt2=/data/gpt2")
    path = Path(place).expanduser().absolute()
    try:
        if not path.exists():
            raise ValueError("there is no such folder or file")
        if is_gguf(path):
            return _gguf(name, path)
        if not path.is_dir():
            raise ValueError("it is neither a folder nor a .gguf file")
        return _configured(name, str(path), _config(path))
    except (ValueError, OSError) as error:
        reason = str(error).replace(str(path), path.name)
        raise ValueError(f"the model {name!r} of ENGRAM_MODELS cannot be used: {reason}") from None


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder.

    Raises:
        ValueError: if it is not one.
    """
    path = folder / "config.json"
    wanted = "give the folder that `save_pretrained` wrote"
    if not path.exists():
        raise ValueError(f"it holds no config.json; {wanted}")
    if not path.is_file():
        raise ValueError(f"its config.json is no ordinary file; {wanted}")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError("its config.json is not a JSON object; download the model again")
    if not any(folder.glob("*.safetensors")):
        raise ValueError("it holds no .safetensors file; save it with `save_pretrained`")
    return config


def _configured(name: str, source: str, whole: dict[str, Any], title: str = "", origin: str = "") -> Choice:
    """A model with this config.json.

    Raises:
        ValueError: if it is of no supported family or does not say how many layers it has.
    """
    config = text_part(whole)
    layers, width = (value_of(config, keys) for keys in (LAYERS, WIDTH))
    family, d_model = str(config.get("model_type", "")), width if isinstance(width, int) else 0
    choice = Choice(name, source, _counted(layers, "config.json"), title, origin, family, d_model)
    architecture_named(family)
    return choice


def _counted(layers: Any, said_by: str) -> int:
    if not isinstance(layers, int) or isinstance(layers, bool) or not 1 <= layers <= MOST_LAYERS:
        raise ValueError(f"its {said_by} says that it has {layers!r} layers; expected 1 to {MOST_LAYERS}")
    return layers


def _gguf(name: str, path: Path) -> Choice:
    """A GGUF file, by its header."""
    stat = path.stat()
    layers, origin = _gguf_header(path, stat.st_mtime_ns, stat.st_size)
    return Choice(name, str(path), layers, origin=origin)


@lru_cache(maxsize=64)
def _gguf_header(path: Path, changed: int, size: int) -> tuple[int, str]:
    """(layers, what it is made from) of a file; kept by time and size, since reading the header takes a while.

    Raises:
        ValueError: if no model can be read from it.
    """
    from models.sources.gguf.model import read_header

    header = read_header(path)
    return _counted(header.value("block_count"), path.name), header.origin
