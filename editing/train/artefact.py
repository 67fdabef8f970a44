"""A trained editor on disk: safetensors with a JSON manifest that names its sha256 and the model it was trained for.

    manifest.json        format, kind, base_revision, settings, validation, sha256 of the tensors
    editor.safetensors   the networks
    log.jsonl            the training curve, one JSON object a line (not needed to edit)

An artefact is referred to by its digest, the sha256 of the manifest, which covers the tensors through their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from facts.regular import check_regular

FORMAT = "engram-editor-1"
BUNDLED = Path(__file__).parents[1] / "artefacts"
"""The editors that come with Engram: a folder for each model, in it one for each method."""
MANIFEST, TENSORS, LOG = "manifest.json", "editor.safetensors", "log.jsonl"


class EditorError(ValueError):
    """A trained editor cannot be used: it was changed, or belongs to another method or model."""


@dataclass(frozen=True, eq=False)
class Artefact:
    """A trained editor: everything a method needs to compute edits."""

    kind: str
    """The method's name."""
    base_revision: str
    """Revision of the model it was trained for."""
    settings: Mapping[str, Any]
    """The settings that its networks are built from."""
    validation: Mapping[str, float]
    """The validation figures of the kept checkpoint."""
    tensors: Mapping[str, Tensor]
    digest: str = ""
    """sha256 of the manifest; empty until saved."""

    @property
    def scale(self) -> float:
        """What changes are multiplied by: settled on validation edits after the training."""
        return float(self.validation.get("scale", 1.0))


def folder_of(folder: str, kind: str) -> Path:
    """Folder of a trained editor: the one given, else that of the bundled model."""
    return Path(folder).expanduser() if folder else BUNDLED / "reference" / kind


def artefact_for(folder: str, kind: str, revision: str) -> Artefact:
    """The editor in a folder; without one, that which comes with Engram for the model of this revision.

    Raises:
        FileNotFoundError, EditorError: as `load_artefact`, and if none comes for this model.
    """
    if folder:
        return load_artefact(Path(folder).expanduser(), kind, revision)
    for path in sorted(BUNDLED.glob(f"*/{kind}/{MANIFEST}")):
        if _manifest(path.parent)[0]["base_revision"] == revision:
            return load_artefact(path.parent, kind, revision)
    command = _command(kind)
    raise FileNotFoundError(f"no {kind} editor comes with Engram for this model; train one with {command}")


def save_artefact(artefact: Artefact, folder: Path) -> Artefact:
    """Write an artefact, the manifest last, so that a folder with a manifest is complete.  Returns it with its digest.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in artefact.tensors.items()}
    save_file(tensors, str(folder / TENSORS))
    manifest = {
        "format": FORMAT,
        "kind": artefact.kind,
        "base_revision": artefact.base_revision,
        "settings": dict(artefact.settings),
        "validation": dict(artefact.validation),
        "sha256": {TENSORS: _sha256((folder / TENSORS).read_bytes())},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    replace_file(folder / MANIFEST, text.encode())
    return Artefact(
        artefact.kind, artefact.base_revision, artefact.settings, artefact.validation, tensors, _sha256(text.encode())
    )


def load_artefact(folder: Path, kind: str, revision: str) -> Artefact:
    """Read an artefact; check that it is complete, of this kind, and trained for the model of this revision.

    Raises:
        FileNotFoundError: if there is none; the sentence says how to train one.
        EditorError: if it was changed since it was written, or belongs to another method or model.
    """
    command = _command(kind)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"there is no trained {kind} editor in {str(folder)!r}; train one with {command}")
    check_regular(folder / TENSORS, f"train an editor with {command}")
    manifest, digest = _manifest(folder)
    if manifest["kind"] != kind:
        raise EditorError(f"the editor in {str(folder)!r} is one of {manifest['kind']!r}, not of {kind!r}")
    if manifest["base_revision"] != revision:
        raise EditorError(
            f"the {kind} editor in {str(folder)!r} was trained for weights {manifest['base_revision'][:12]}, but the "
            f"model has {revision[:12]}; train one for this model with {command}"
        )
    try:
        content = (folder / TENSORS).read_bytes()
        if _sha256(content) != manifest["sha256"][TENSORS]:
            raise ValueError("its digest differs from the manifest's")
        tensors = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise EditorError(
            f"{str(folder / TENSORS)!r} is damaged: {error}; fetch it again, or train it again with {command}"
        ) from error
    return Artefact(kind, revision, manifest["settings"], manifest["validation"], tensors, digest)


def _command(kind: str) -> str:
    return f"`python -m editing.train {kind} --model NAME --out FOLDER` and give its folder as the setting artefact"


def _manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """The checked manifest and its sha256."""
    content = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, expected {FORMAT!r}")
        for key in ("kind", "base_revision", "settings", "validation", "sha256"):
            manifest[key]
    except (KeyError, TypeError, ValueError) as error:
        raise EditorError(f"{str(folder / MANIFEST)!r} is not an editor's manifest: {error}") from error
    return manifest, _sha256(content)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers see the old content or the new, never a part."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
