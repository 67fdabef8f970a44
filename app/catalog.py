"""Which models the page offers: the bundled one, and folders the person who starts the server allows.

A free text box would mean "download and load anything", so there is none.  `ENGRAM_MODELS` adds local folders:
`ENGRAM_MODELS="gpt2=/data/gpt2,pythia=/data/pythia-70m" python -m app`.  Sizes come from config.json, so that the page
can be drawn before torch is imported.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

REFERENCE = "reference"
REFERENCE_FOLDER = Path(__file__).resolve().parent.parent / "models" / "reference" / "weights"

# Where model families keep their number of layers in config.json.
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Choice:
    """One model of the list."""

    name: str
    source: str
    """What `load_model` takes: "reference" or a folder's full path."""
    folder: Path
    n_layers: int


def choices() -> dict[str, Choice]:
    """The models on offer by name, the bundled one first; a folder without a readable config.json is left out."""
    listed = {REFERENCE: (REFERENCE, REFERENCE_FOLDER)}
    for entry in filter(None, os.environ.get("ENGRAM_MODELS", "").split(",")):
        name, _, folder = entry.partition("=")
        path = Path(folder.strip()).expanduser().absolute()
        listed[name.strip()] = (str(path), path)
    found = {
        name: Choice(name, source, folder, layers)
        for name, (source, folder) in listed.items()
        if (layers := _layers(folder)) is not None
    }
    return found or {REFERENCE: Choice(REFERENCE, REFERENCE, REFERENCE_FOLDER, 12)}


def _layers(folder: Path) -> int | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return next((int(config[key]) for key in _LAYER_KEYS if key in config), None)
