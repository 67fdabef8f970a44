"""`engram app|trace|edit|run|models ...`: the project's commands under one name, after `pip install -e .`

engram app                         the workbench, as `python -m app`
engram trace PROMPT --subject S    as `python -m tracing`
engram edit PROMPT --subject S     as `python -m editing`
engram run WHAT | status | ...     as `python -m experiments`; the word `run` need not be said twice
engram models list | get NAME      as `python -m models`
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from facts.language.shell import complain, told
from facts.pipes import outlive_reader


def _app(arguments: list[str]) -> int:
    from app.__main__ import main as serve

    serve(arguments)
    return 0


def _trace(arguments: list[str]) -> int:
    from tracing.__main__ import main as trace

    return trace(arguments)


def _edit(arguments: list[str]) -> int:
    from app.edit_command import main as edit

    return edit(arguments)


def _run(arguments: list[str]) -> int:
    from experiments.__main__ import COMMANDS as EXPERIMENTS
    from experiments.__main__ import main as run

    named = bool(arguments) and arguments[0] in (*EXPERIMENTS, "-h", "--help")
    return run(arguments if named else ["run", *arguments])


def _models(arguments: list[str]) -> int:
    from models.__main__ import main as models

    return models(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "app": _app,
    "trace": _trace,
    "edit": _edit,
    "run": _run,
    "models": _models,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its own exit code, or 2 for an unknown one."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return COMMANDS[name](rest)
    if name in ("-h", "--help"):
        print(told(__doc__ or ""))
        return 0
    complain(f"unknown command {name!r}; choose from {', '.join(COMMANDS)}")
    return 2


def command() -> None:
    """What the installed command `engram` calls."""
    outlive_reader()
    sys.exit(main())


if __name__ == "__main__":
    command()
