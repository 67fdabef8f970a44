"""Models to start with: `python -m models list | show NAME | get NAME | remove NAME | cache`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from facts.language.shell import complain, told
from facts.pipes import outlive_reader
from facts.watch import Cancelled, Watch
from models.sources.cache import COMPUTED, cache_folder, cap_bytes, clear, kept_files
from models.sources.catalogue import (
    ENTRIES,
    Entry,
    entry_named,
    fetch,
    folder_of,
    is_fetched,
    memory_needed,
    remove,
)
from models.sources.gguf.files import converted_folders, folder_bytes

_BAR_WIDTH = 30
_DRAW_SECONDS = 0.2


class Bar:
    """A progress bar with bytes done, rate and time left; silent if the output is not a terminal."""

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent or not sys.stderr.isatty()
        self.began: tuple[float, int] | None = None
        self.drawn = 0.0

    def __call__(self, done: int, total: int, stage: str = "") -> None:
        if stage:
            note(f"{stage.capitalize()} ...")
        if not total:
            return
        now = time.monotonic()
        if self.began is None:
            self.began = (now, done)
        if self.silent or (now - self.drawn < _DRAW_SECONDS and done < total):
            return
        self.drawn = now
        start, first = self.began
        rate = (done - first) / max(now - start, 1e-9)
        left = f"{(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        filled = round(_BAR_WIDTH * done / total)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r[{bar}] {megabytes(done)} of {megabytes(total)}, {rate / 1e6:.1f} MB/s {left:<12}{end}")
        sys.stderr.flush()


def megabytes(n_bytes: int) -> str:
    """A size in MB below a gigabyte, else in GB."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def described(entry: Entry) -> dict[str, Any]:
    """All facts about a model, for JSON; sizes in bytes."""
    return {
        "name": entry.name,
        "title": entry.title,
        "fetched": is_fetched(entry.name),
        "source": {"bundled": "bundled", "index": "package index", "hub": "model hub"}[entry.source],
        "family": entry.family,
        "layers": entry.n_layers,
        "d_model": entry.d_model,
        "parameters": entry.parameters,
        "weights": entry.origin or "as published",
        "download_bytes": entry.download_bytes,
        "download_is_exact": entry.size_is_exact,
        "disk_bytes": entry.disk_bytes,
        "memory_bytes": {dtype: memory_needed(entry.parameters, dtype) for dtype in ("float32", "bfloat16")},
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "licence_must_be_accepted": entry.licence_must_be_accepted,
        "gated": entry.gated,
        "published_layers": list(entry.published_layers),
    }


def print_list() -> None:
    """Print all models as a table."""
    row = "{:<28} {:<12} {:>10} {:>12} {:>9} {:>9}  {}"
    print(row.format("name", "state", "parameters", "download", "float32", "bfloat16", "licence"))
    for entry in ENTRIES.values():
        state = "bundled" if entry.source == "bundled" else "fetched" if is_fetched(entry.name) else "-"
        memory = [megabytes(memory_needed(entry.parameters, dtype)) for dtype in ("float32", "bfloat16")]
        size = megabytes(entry.download_bytes) if entry.size_is_exact else f"about {megabytes(entry.download_bytes)}"
        licence = entry.licence + (" (gated)" if entry.gated else "")
        print(row.format(entry.name, state, f"{entry.parameters / 1e6:,.0f} M", size, *memory, licence))
    for name, folder in converted_folders().items():
        print(row.format(name, "from GGUF", "", megabytes(folder_bytes(folder)), "", "", ""))
    print("\nfloat32, bfloat16: memory needed, about.  `python -m models get NAME` fetches one; `show NAME` says more.")


def print_entry(entry: Entry) -> None:
    """Print one model, one property per line."""
    about = "" if entry.size_is_exact else "about "
    memory = ", ".join(f"{megabytes(memory_needed(entry.parameters, d))} in {d}" for d in ("float32", "bfloat16"))
    layers = ", ".join(map(str, entry.published_layers)) or "none published"
    facts = described(entry)
    for label, value in (
        ("name", f"{entry.name} ({entry.title})"),
        ("state", folder_of(entry.name) if facts["fetched"] else "not fetched"),
        ("source", facts["source"] + (", gated: accept the licence there and log in first" if entry.gated else "")),
        ("model", f"{entry.family}, {entry.n_layers} layers x {entry.d_model}, {entry.parameters:,} parameters"),
        ("weights", facts["weights"]),
        ("download", f"{about}{megabytes(entry.download_bytes)}; {megabytes(entry.disk_bytes)} on disk"),
        ("memory", f"about {memory}"),
        ("licence", f"{entry.licence} {entry.licence_url}".rstrip()),
        ("layers edited in papers", layers),
    ):
        print(f"{label}: {value}")


def get(entry: Entry, accepted: bool, as_json: bool) -> None:
    """Fetch one model; the licence is shown before the first byte."""
    if not is_fetched(entry.name):
        note(
            f"{entry.title}: {megabytes(entry.download_bytes)} to download, licence {entry.licence} {entry.licence_url}"
        )
        if entry.licence_must_be_accepted and not accepted and sys.stdin.isatty():
            note(f"Do you accept the {entry.licence}? [y/N] ", end="")
            accepted = sys.stdin.readline().strip().lower() in ("y", "yes")
    began = time.monotonic()
    fetch(
        entry.name,
        # a fetched model was accepted when it was fetched
        licence_accepted=accepted or is_fetched(entry.name),
        watch=Watch(Bar()),
    )
    if as_json:
        print(json.dumps(described(entry), indent=2))
    else:
        print(f"{entry.name} is ready ({time.monotonic() - began:.0f} s); use it as `--model {entry.name}`")


def cached() -> dict[str, Any]:
    """What the cache holds, for JSON: bytes and files of each folder, the cap of what was computed; sizes in bytes."""
    folder = cache_folder()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = {name: list(kept_files(name)) for name in names}
    return {
        "folder": str(folder),
        "cap_bytes": cap_bytes(),
        "computed_bytes": sum(kept.bytes for name in COMPUTED for kept in files.get(name, ())),
        "folders": {
            name: {"files": len(some), "bytes": sum(kept.bytes for kept in some), "capped": name in COMPUTED}
            for name, some in files.items()
        },
    }


def print_cache() -> None:
    """Print what the cache holds as a table."""
    facts = cached()
    print(f"{facts['folder']}\n")
    for name, folder in facts["folders"].items():
        kind = "computed again when needed" if folder["capped"] else ""
        kind = "fetched or converted; `python -m models remove NAME`" if name in ("models", "gguf") else kind
        print(f"{name:<12} {megabytes(folder['bytes']):>10} {folder['files']:>7} files  {kind}".rstrip())
    print(
        f"\nOf what is computed again {megabytes(facts['computed_bytes'])} are kept, at most "
        f"{megabytes(facts['cap_bytes'])} (ENGRAM_CACHE_GB); what was used longest ago goes first.  `cache --clear` "
        "deletes it, `cache --clear --models` fetched models too (not those of the model hub)."
    )


def clear_cache(models: bool) -> int:
    """Delete what was computed, and fetched models if asked; return the bytes freed."""
    freed = clear()
    if models:
        # those of a hub lie in its own cache, which other programs share
        fetched = [name for name, entry in ENTRIES.items() if entry.source == "index" and is_fetched(name)]
        freed += sum(remove(name) for name in (*fetched, *converted_folders()))
    return freed


def note(text: str, end: str = "\n") -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, end=end, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 when it failed and 130 when it was interrupted; the reason is printed.
    """
    parser = argparse.ArgumentParser(prog="python -m models", description=told(__doc__ or ""))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help=told("models to start with")).add_argument("--json", action="store_true")
    for name, text in (
        ("show", told("what one model is and needs")),
        ("get", told("fetch one")),
        ("remove", told("free its disk space")),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", metavar="NAME")
        command.add_argument("--json", action="store_true")
        if name == "get":
            command.add_argument("--accept-licence", action="store_true", help="accept the licence that is shown")
    command = commands.add_parser("cache", help=told("what is kept on disk, and its cap; --clear deletes it"))
    command.add_argument("--clear", action="store_true", help="delete what can be computed again")
    command.add_argument("--models", action="store_true", help="with --clear: fetched and converted models too")
    command.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        complain(error)
        return 1
    except (Cancelled, KeyboardInterrupt):
        goes_on = options.command == "get"
        note(f"\nstopped; `python -m models get {options.name}` goes on from the finished parts" if goes_on else "")
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "list" and options.json:
        print(json.dumps([described(entry) for entry in ENTRIES.values()], indent=2))
    elif options.command == "list":
        print_list()
    elif options.command == "cache":
        _run_cache(options)
    elif options.command == "get":
        get(entry_named(options.name), options.accept_licence, options.json)
    elif options.command == "show" and options.json:
        print(json.dumps(described(entry_named(options.name)), indent=2))
    elif options.command == "show":
        print_entry(entry_named(options.name))
    else:
        freed = remove(options.name)
        print(json.dumps({"name": options.name, "freed_bytes": freed}) if options.json else f"{megabytes(freed)} freed")


def _run_cache(options: argparse.Namespace) -> None:
    if options.models and not options.clear:
        raise ValueError("--models only says what --clear deletes; add --clear")
    if options.clear:
        freed = clear_cache(options.models)
        print(json.dumps({"freed_bytes": freed}) if options.json else f"{megabytes(freed)} freed")
    elif options.json:
        print(json.dumps(cached(), indent=2))
    else:
        print_cache()


if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
