"""`python -m app`: start the web page with the settings of streamlit_config.toml.

Streamlit reads `.streamlit/config.toml` only, never a file of another name, and has no option for one.  So every key
of our file is handed over as the `STREAMLIT_*` variable of the same meaning, as a default: a variable the user has set,
and any flag given after `python -m app`, win.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "streamlit_config.toml"
MAIN = ROOT / "app" / "main.py"

# Where Streamlit puts an underscore into a key's variable: fooBar -> FOO_BAR, enableCORS -> ENABLE_CORS.
_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def environment(settings: Path = SETTINGS) -> dict[str, str]:
    """The `STREAMLIT_*` variables that say what a settings file says."""
    with settings.open("rb") as file:
        tree = tomllib.load(file)
    return {f"STREAMLIT_{'_'.join(map(_variable, path))}": _text(value) for path, value in _leaves(tree)}


def main(arguments: list[str] | None = None) -> None:
    """Run Streamlit on the page; `arguments` are Streamlit's own flags."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    from streamlit.web import cli

    flags = sys.argv[1:] if arguments is None else arguments
    cli.main(["run", str(MAIN), *flags], prog_name="python -m app")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _variable(key: str) -> str:
    return _WORD_BORDER.sub("_", key).upper()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
