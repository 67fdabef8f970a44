"""`python -m app`: start the web page with the settings of streamlit_config.toml.

Streamlit reads `.streamlit/config.toml` only, never a file of another name, and has no option for one.  So every key
of our file is handed over as the `STREAMLIT_*` variable of the same meaning, as a default: a variable the user has set,
and any flag given after `python -m app`, win.

The server answers requests for the names localhost, 127.0.0.1, ::1 and its own address; `ENGRAM_ALLOWED_HOSTS` adds
names, separated by commas.  `--server-paths` lets the page Batch read files of this computer by their path.

`--public` is for visitors who are not trusted (docs/operations.md): the server starts only if every check of
`python -m app doctor` holds, offers only the bundled model and those of ENGRAM_MODELS, and has stricter limits.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.classroom.names import LINK
from app.server import limits
from facts.language.shell import told
from facts.pipes import outlive_reader

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "streamlit_config.toml"
MAIN = ROOT / "app" / "main.py"
SERVE = ROOT / "app" / "serve.py"
HOSTS = "STREAMLIT_SERVER_ALLOWED_HOSTS"
ANY_ADDRESS = ("0.0.0.0", "::")
"""Addresses that mean all addresses of the computer; a browser cannot open them."""

# Where Streamlit puts an underscore into a key's variable: fooBar -> FOO_BAR, enableCORS -> ENABLE_CORS.
_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def environment(settings: Path = SETTINGS) -> dict[str, str]:
    """The `STREAMLIT_*` variables that say what a settings file says."""
    with settings.open("rb") as file:
        tree = tomllib.load(file)
    return {f"STREAMLIT_{'_'.join(map(_variable, path))}": _text(value) for path, value in _leaves(tree)}


def main(arguments: list[str] | None = None) -> None:
    """Run Streamlit on the page; `arguments` are Streamlit's own flags, `--server-paths`, `--public` or `doctor`."""
    flags = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(flags):
        print(
            told(
                "Serve the workbench.  It takes --server-paths, --public, doctor, and Streamlit's options, such as "
                "--server.port 8502; `python -m streamlit run --help` lists those."
            )
        )
        return
    asks_doctor = _taken(flags, "doctor")
    if _taken(flags, limits.PATHS_FLAG):
        os.environ[limits.PATHS] = "1"
    for_strangers = _taken(flags, "--public") or asks_doctor
    if for_strangers:
        os.environ[limits.PUBLIC] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("ENGRAM_LOG", "json")
    _set_environment(flags)
    # A class is served inside its own network, and so without the checks.
    if for_strangers or (limits.public() and LINK not in os.environ):
        sound = _examined(flags)
        if asks_doctor or not sound:
            sys.exit(0 if sound else 1)
    from streamlit.web import cli

    cli.main(["run", str(SERVE), *flags], prog_name="python -m app")


def _taken(flags: list[str], flag: str) -> bool:
    """Whether the flag is there; it is taken out."""
    there = flag in flags
    if there:
        flags.remove(flag)
    return there


def _examined(flags: list[str]) -> bool:
    """Print what the doctor sees; whether a public server may start."""
    for flag in flags:  # as Streamlit will read them
        if flag.startswith("--") and (value := _flag(flags, flag.partition("=")[0])) is not None:
            os.environ[f"STREAMLIT_{'_'.join(map(_variable, flag[2:].partition('=')[0].split('.')))}"] = value
    from app.server.doctor import checks

    found = checks()
    for check in found:
        print(check.line)
    failed = sum(bool(check.problem) for check in found)
    if failed:
        print(f"{failed} of {len(found)} checks fail, so the page is not safe for strangers.")
    return not failed


def _set_environment(flags: list[str]) -> None:
    """Hand our settings over to Streamlit, and tell under which names the page is shown."""
    values = environment()
    address = _flag(flags, "--server.address") or os.environ.get("STREAMLIT_SERVER_ADDRESS", "")
    more = os.environ.get("ENGRAM_ALLOWED_HOSTS", "").replace(",", " ").split()
    values[HOSTS] = " ".join(dict.fromkeys([*values[HOSTS].split(), *filter(None, [address]), *more]))
    for name, value in values.items():
        os.environ.setdefault(name, value)
    if address in ANY_ADDRESS and not more and _flag(flags, "--server.allowedHosts") is None:
        names = ", ".join(os.environ[HOSTS].split())
        print(f"The page is only shown under the names {names}; set ENGRAM_ALLOWED_HOSTS to the name others will use.")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _variable(key: str) -> str:
    return _WORD_BORDER.sub("_", key).upper()


def _flag(flags: list[str], name: str) -> str | None:
    """The value of a flag given as `name value` or `name=value`."""
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        if flag == name:
            return following
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2]
    return None


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    outlive_reader()
    main()
