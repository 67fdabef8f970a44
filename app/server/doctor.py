"""What must hold before strangers are let in: `python -m app doctor`, and what `--public` refuses to start without."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamlit import config

from app.server import catalog, limits
from app.server.gate import LOCAL
from app.server.health import LEAST_DISK, runs_folder
from models.sources.catalogue import REFERENCE_FOLDER
from models.sources.manifest import check_manifest

SAFE_OPTIONS = {
    "client.showErrorDetails": "none",
    "server.enableXsrfProtection": True,
    "server.enableCORS": True,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": False,
    "global.developmentMode": False,
}
LARGEST_UPLOAD_MB = 2
FILES_EACH, FILES_BESIDE = 5, 200
"""Open files that a session needs, and the server beside them."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    problem: str = ""
    """What is wrong and what to do; empty if nothing is."""

    @property
    def line(self) -> str:
        """For the terminal."""
        return f"FAILS {self.name}: {self.problem}" if self.problem else f"   ok {self.name}"


def checks() -> list[Check]:
    """Everything that a public server needs."""
    return [*_reached(), *_settings(), *_files(), *_machine(), *_login()]


def _option(name: str) -> Any:
    """A setting of Streamlit, as its command line will read it from the environment."""
    option = config.get_config_options()[name]
    text = os.environ.get(option.env_var)
    if text is None:
        return option.value
    if option.type is bool:
        return text.lower() in ("1", "true", "yes", "on")
    return int(text) if option.type is int else text.split() if option.multiple else text


def _reached() -> Iterator[Check]:
    address = _option("server.address")
    wrong = "" if address in LOCAL or os.environ.get("ENGRAM_BEHIND_PROXY") == "1" else (
        f"it is {address or 'every address'}, which anybody can reach without TLS; leave it at 127.0.0.1 behind a TLS "
        "proxy, or set ENGRAM_BEHIND_PROXY=1 where only the proxy can reach it, as in the compose file"
    )  # fmt: skip
    yield Check("address", wrong)
    hosts = [host for host in _option("server.allowedHosts") if host not in (*LOCAL, "localhost")]
    wrong = "" if hosts else "no name is allowed; set ENGRAM_ALLOWED_HOSTS to the name the proxy is reached by"
    if any(host.strip() in ("*", "*.") for host in hosts):
        wrong = "it allows every name (*); name the hosts"
    yield Check("allowed hosts", wrong)
    yield Check("paths of the server", "start without --server-paths" if limits.server_paths() else "")
    yield Check("hub", "" if os.environ.get("HF_HUB_OFFLINE") == "1" else "set HF_HUB_OFFLINE=1")


def _settings() -> Iterator[Check]:
    for name, wanted in SAFE_OPTIONS.items():
        value = _option(name)
        yield Check(name, "" if value == wanted else f"it is {value!r}; set it to {wanted!r}")
    size = _option("server.maxUploadSize")
    yield Check(
        "server.maxUploadSize",
        "" if size <= LARGEST_UPLOAD_MB else f"it is {size} MB; set it to {LARGEST_UPLOAD_MB} at most",
    )
    try:
        limits.check()
        wrong = ""
    except ValueError as error:
        wrong = str(error)
    yield Check("limits of sessions and jobs", wrong)


def _files() -> Iterator[Check]:
    try:
        check_manifest(REFERENCE_FOLDER)
        wrong = ""
    except (ValueError, OSError) as error:
        wrong = str(error)
    yield Check("bundled model", wrong)
    yield Check("ENGRAM_MODELS", "; ".join(catalog.offer().unusable))
    folder = next(path for path in (runs_folder(), *runs_folder().parents) if path.exists())
    yield Check("folder of experiments", "" if os.access(folder, os.W_OK) else f"{str(folder)!r} cannot be written")
    free = shutil.disk_usage(folder).free
    yield Check("disk", "" if free >= LEAST_DISK else f"{free / 2**20:.0f} MB are free; make room for 1 GB")


def _machine() -> Iterator[Check]:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    yield Check("user", "it runs as root; start it as another user" if root else "")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with suppress(ValueError):  # told above
        needed = FILES_BESIDE + FILES_EACH * limits.most_sessions()
        yield Check("open files", "" if files >= needed else f"at most {files}; run `ulimit -n {needed}` first")


def _login() -> Iterator[Check]:
    if not limits.login():
        return
    wrong = []
    if importlib.util.find_spec("authlib") is None:
        wrong.append("run `pip install authlib`")
    if not any(Path(path).is_file() for path in _option("secrets.files")):
        wrong.append("write [auth] into .streamlit/secrets.toml (docs/operations.md)")
    yield Check("login", "; ".join(wrong))
