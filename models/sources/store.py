"""Folders of converted models in the cache: written elsewhere, moved into place whole, by one writer at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facts.watch import UNWATCHED, Watch
from models.sources.cache import cache_folder
from models.sources.child import ChildError, reason, run_child
from models.sources.manifest import MANIFEST, read_json

CONVERSION = 2
"""Raised whenever the same file is converted into another folder; what was converted before is then made again."""
_POLL_SECONDS = 0.1


def is_kept(folder: Path) -> bool:
    """Whether the folder holds a converted model; it is moved there with its manifest or not at all."""
    try:
        return (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("conversion") == CONVERSION
    except ValueError:
        return False


@contextmanager
def only_writer(folder: Path, *, watch: Watch = UNWATCHED) -> Iterator[None]:
    """Hold the lock for writing a folder of the cache, among all processes of this machine.

    The lock belongs to an open file, so the system frees it when its holder ends in whatever way.

    Args:
        watch: asked about ten times a second while another process holds it.

    Raises:
        Cancelled: when `watch` says so while another holds it.
    """
    import fcntl  # not on Windows, where everything but fetching works

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                watch.check()
                time.sleep(_POLL_SECONDS)
        yield


def convert_into(folder: Path, gguf: Path, *, watch: Watch = UNWATCHED, **about: str) -> None:
    """Convert a GGUF file into a folder of safetensors; call it as the folder's `only_writer`.

    Args:
        about: strings for the folder's manifest, such as the licence.

    Raises:
        ValueError: if the file cannot be read as a model, in one sentence.
        Cancelled: when `watch` says so.
    """
    aside = folder.parent / f".{folder.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    facts = [f"{key}={value}" for key, value in about.items()]
    try:
        run_child(
            ["-m", "models.sources.convert", str(gguf.absolute()), str(aside.absolute()), *facts],
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            poll=watch.check,
        )
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except ChildError as failed:
        raise ValueError(f"{gguf.name!r} cannot be converted: {reason(failed)}") from failed
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_room(needed: int, what: str) -> None:
    """Check before the first byte that the cache's disk has enough room.

    Raises:
        OSError: with bytes needed and free.
    """
    place = cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OSError(
            f"{what} needs {needed / 1e9:.1f} GB in {str(place)!r} and {free / 1e9:.1f} GB are free; "
            "free some space or set ENGRAM_CACHE to a folder on another disk"
        )
