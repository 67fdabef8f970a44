"""manifest.json: the sha256 of every file of a model folder, checked whenever the model is loaded.

One flipped bit in a weight file loads without complaint and answers differently.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_MAX_JSON_BYTES = 10_000_000
_LFS_MARK = b"version https://git-lfs"
MANIFEST = "manifest.json"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **about: Any) -> None:
    """Record the sha256 of every file of a folder, and whatever else is to be known about it."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path, remedy: str) -> dict[str, Any]:
    """What `write_manifest` recorded, or for the bundled model the files alone.

    Raises:
        ValueError: if there is none, or it lists no weights.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} has no manifest.json; {remedy}")
    manifest = read_json(path)
    recorded = manifest if "files" in manifest else {"files": manifest}
    if not isinstance(recorded["files"], dict) or "model.safetensors" not in recorded["files"]:
        raise ValueError(f"{str(path)!r} does not list model.safetensors; {remedy}")
    return recorded


def check_manifest(folder: Path, remedy: str = "restore it with `git checkout`") -> dict[str, str]:
    """Compare every file with the sha256 that manifest.json records for it.

    Returns:
        File name -> its sha256.

    Raises:
        ValueError: if the manifest is missing or empty, a listed file is missing, or one does not match; the sentence
            ends with `remedy`.
    """
    files: dict[str, str] = read_manifest(folder, remedy)["files"]
    for name, recorded in files.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"the file {name!r} of the model is missing; {remedy}")
        if is_lfs_pointer(file):
            raise ValueError(f"{name!r} is a git-lfs pointer, not the file; run `git lfs pull`")
        if file_digest(file) != recorded:
            raise ValueError(f"{name!r} does not match its recorded sha256; {remedy}")
    return files


def read_json(path: Path, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        ValueError: if it is a git-lfs pointer, too large or not a JSON object.
    """
    if is_lfs_pointer(path):
        raise ValueError(f"{path.name!r} is a git-lfs pointer, not the file; run `git lfs pull`")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path.name!r} is larger than {max_bytes} bytes, which no such file is")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(f"{path.name!r} is not a JSON object; download the model again")
    return parsed


def is_lfs_pointer(path: Path) -> bool:
    """Whether git left a pointer where git-lfs should have put the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS_MARK)) == _LFS_MARK
