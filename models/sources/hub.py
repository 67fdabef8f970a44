"""Models of the hub: from its local cache, or downloaded there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from facts.watch import UNWATCHED, Watch
from models.sources.child import ChildError, reason, run_child

_WANTED: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model"],
    "ignore_patterns": ["*/*"],
}


def cached(hub_id: str) -> Path | None:
    """The folder of a model whose weights are in the hub's local cache, or None."""
    with suppress(LocalEntryNotFoundError):
        folder = Path(snapshot_download(hub_id, local_files_only=True, **_WANTED))
        # a cache may hold the tokenizer alone, when that was all another program asked for
        if any(folder.glob("*.safetensors")):
            return folder
    return None


def cached_names() -> list[str]:
    """Ids of the models in the hub's local cache, whole or not, in the order of the alphabet."""
    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


def cached_or_downloaded(hub_id: str) -> Path:
    """The folder of a model of the hub.

    Raises:
        ValueError: if the hub has no such model, or does not give it to this user.
        FileNotFoundError: if it is neither cached nor to be had.
    """
    folder = cached(hub_id)
    if folder is not None:
        return folder
    hint = f"; to load the folder of that name write './{hub_id}'" if Path(hub_id).is_dir() else ""
    try:
        return Path(snapshot_download(hub_id, **_WANTED))
    except GatedRepoError:
        raise ValueError(
            f"the hub gives {hub_id!r} only to those who accepted its licence: accept it on the model's page there, "
            f"run `hf auth login`, then try again{hint}"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(f"unknown model {hub_id!r}: the hub has no such model, or it is not public{hint}") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        with suppress(LocalEntryNotFoundError):
            # missing files are named when the folder is checked
            return Path(snapshot_download(hub_id, local_files_only=True, **_WANTED))
        raise FileNotFoundError(
            f"the model {hub_id!r} is not in the local cache and the hub cannot be reached; run `hf download {hub_id}` "
            f"where there is a network, use 'reference', or give a folder's full path{hint}"
        ) from None


def download(hub_id: str, expected_bytes: int, *, watch: Watch = UNWATCHED) -> Path:
    """Download a model into the hub's local cache, in a process that can be watched and ended.

    Args:
        expected_bytes: about how much will come, for `watch`.

    Raises:
        ConnectionError: if it cannot be had, in one sentence.
        Cancelled: when `watch` says so; the hub's library goes on from there the next time.
    """
    place = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"

    def poll() -> None:
        watch.step(min(_size(place), expected_bytes), expected_bytes)

    try:
        run_child(["-m", "models.sources.hub", hub_id], poll=poll)
    except ChildError as failed:
        raise ConnectionError(reason(failed)) from failed
    return cached_or_downloaded(hub_id)


def remove(hub_id: str) -> int:
    """Delete a model from the hub's local cache, where other programs may have put it.

    Returns:
        Bytes freed.
    """
    with suppress(CacheNotFound):
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
        revisions = [
            revision.commit_hash
            for repository in cache.repos
            if repository.repo_id == hub_id and repository.repo_type == "model"
            for revision in repository.revisions
        ]
        plan = cache.delete_revisions(*revisions)
        plan.execute()
        return int(plan.expected_freed_size)
    return 0


def _size(folder: Path) -> int:
    """Bytes of the files of a folder; they may come and go meanwhile."""
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


if __name__ == "__main__":
    import sys

    cached_or_downloaded(sys.argv[1])
