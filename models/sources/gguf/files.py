"""GGUF files on disk: each is converted once, into a folder of the cache under its name and sha256."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from models.sources.cache import cache_folder
from models.sources.manifest import file_digest, read_json
from models.sources.store import check_room, convert_into, is_kept, only_writer


def is_gguf(name: str | Path) -> bool:
    """Whether a model's name is the path of a GGUF file."""
    return str(name).lower().endswith(".gguf")


def folder_of_gguf(path: Path) -> Path:
    """The folder of safetensors made from a file; made now where it is not there, which takes seconds to minutes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a GGUF file that can be read, in one sentence.
        OSError: if the disk has no room.
    """
    from models.sources.gguf.model import read_header  # imports gguf, which listing does without

    header = read_header(path)
    digest = file_digest(path)
    folder = _home() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', path.stem)[:80]}-{digest[:16]}"
    with only_writer(folder):
        if not (is_kept(folder) and read_json(folder / "manifest.json").get("source_sha256") == digest):
            check_room(4 * header.n_elements, path.name)
            convert_into(folder, path)
    return folder


def converted_folders() -> dict[str, Path]:
    """Name -> folder, of the files that were converted."""
    return {folder.name: folder for folder in sorted(_home().glob("*")) if is_kept(folder)}


def remove_converted(name: str) -> int:
    """Delete what was made from a file, by a name of `converted_folders`; the file itself stays.

    Returns:
        Bytes freed.

    Raises:
        ValueError: if nothing of that name is there.
    """
    folders = converted_folders()
    if name not in folders:
        raise ValueError(f"{name!r} is neither in the catalogue nor converted from a GGUF file; see `list`")
    folder = folders[name]
    with only_writer(folder):
        freed = folder_bytes(folder)
        shutil.rmtree(folder)
    return freed


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _home() -> Path:
    return cache_folder() / "gguf"
