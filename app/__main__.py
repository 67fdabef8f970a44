"""`python -m app`: start the web page with the settings of streamlit_config.toml.

Streamlit reads `.streamlit/config.toml` only, never a file of another name, and has no option for one.  So every key
of our file is handed over as the `STREAMLIT_*` variable of the same meaning, as a default: a variable the user has set,
and any flag given after `python -m app`, win.

The server answers requests for the names localhost, 127.0.0.1, ::1 and its own address; `ENGRAM_ALLOWED_HOSTS` adds
names, separated by commas.  `--server-paths` lets the page Batch read files of this computer by their path.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.server.server_paths import FLAG, VARIABLE
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
    """Run Streamlit on the page; `arguments` are Streamlit's own flags, and `--server-paths`."""
    flags = list(sys.argv[1:] if arguments is None else arguments)
    if FLAG in flags:
        flags.remove(FLAG)
        os.environ[VARIABLE] = "1"
    values = environment()
    address = _flag(flags, "--server.address") or os.environ.get("STREAMLIT_SERVER_ADDRESS", "")
    more = os.environ.get("ENGRAM_ALLOWED_HOSTS", "").replace(",", " ").split()
    values[HOSTS] = " ".join(dict.fromkeys([*values[HOSTS].split(), *filter(None, [address]), *more]))
    for name, value in values.items():
        os.environ.setdefault(name, value)
    if address in ANY_ADDRESS and not more and _flag(flags, "--server.allowedHosts") is None:
        names = ", ".join(os.environ[HOSTS].split())
        print(f"The page is only shown under the names {names}; set ENGRAM_ALLOWED_HOSTS to the name others will use.")
    from streamlit.web import cli

    cli.main(["run", str(SERVE), *flags], prog_name="python -m app")


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
