"""`python -m experiments run PLAN.toml|STUDY`: many cells, stopped and resumed at will.

python -m experiments run WHAT --out FOLDER     plan, compute, summarise; WHAT is a study or a plan in TOML
python -m experiments status --out FOLDER       how far it is, and what failed why
python -m experiments resume --out FOLDER       go on after a stop, a crash or a full disk
python -m experiments retry --out FOLDER        try the failed cells once more
python -m experiments export --out FOLDER       tables as Parquet, CSV and LaTeX, and the study's figure; or, with
                                                --format easyedit, edits in the shape of EasyEdit's results
python -m experiments doctor --out FOLDER       verify every row's hash; --mend deletes damaged rows, which
                                                `resume` computes again
python -m experiments backup FILE --out FOLDER  the whole ledger in one file, also while cells are computed
python -m experiments restore FILE --out FOLDER a ledger in a new folder from such a file, every hash verified
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import commands
from experiments.runner import DEADLINE, RunBrokenError
from experiments.studies import Study, get_study, survey
from facts.language.shell import complain, told
from facts.pipes import outlive_reader
from models.options import NAMES, add_model_options

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": commands.run,
    "status": commands.status,
    "resume": commands.resume,
    "retry": commands.retry,
    "export": commands.export,
    "doctor": commands.doctor,
    "backup": commands.backup,
    "restore": commands.restore,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 for success, 1 if cells failed, are left or are damaged, 2 after an error message."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        named = arguments[1] if arguments[:1] == ["run"] and len(arguments) > 1 else ""
        study = get_study(named) if named and not named.startswith("-") and not named.endswith(".toml") else None
        options = _parser(study).parse_args(arguments)
        options.study = study
        return COMMANDS[options.command](options)
    except (ValueError, OSError, RunBrokenError, ImportError) as error:
        complain(error)
        return 2


def _parser(study: Study | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=told("Compute many cells over many facts; every result is kept, and a stopped run goes on."),
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, works: bool = False) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text.replace("%", "%%"), description=text)
        added.add_argument("--out", type=Path, default=None, help="folder of the ledger (default: runs/NAME)")
        added.add_argument("--run", default="", help="which run, where the ledger holds several")
        added.add_argument("--network", action="store_true", help="the folder is on a network file system")
        if works:
            _add_executor(added)
        return added

    run = command("run", told(study.HELP) if study else _listed(), works=True)
    run.add_argument("what", help="a study, or a plan that ends in .toml")
    add_model_options(run)
    run.set_defaults(**dict.fromkeys(NAMES))  # options that are not given come from the plan
    run.add_argument("--name", default="", help="of the run, if not the study's or the plan's own")
    if study:
        study.add_options(run)
    command("status", told("how far a run is")).add_argument("--json", action="store_true", help="as JSON")
    command("resume", told("go on with a run"), works=True)
    command("retry", told("try failed cells once more"), works=True)
    command("export", told("write the tables and the study's figure")).add_argument(
        "--format",
        choices=commands.FORMATS,
        default="tables",
        help="tables, or edits in the shape of EasyEdit's results",
    )
    command("doctor", told("verify every row's hash")).add_argument(
        "--mend", action="store_true", help="delete damaged rows, so that `resume` computes them again"
    )
    command("backup", told("write the ledger into one file")).add_argument("file", type=Path, help="the backup")
    command("restore", told("make a ledger from a backup")).add_argument("file", type=Path, help="the backup")
    return parser


def _listed() -> str:
    """What `run` does, the studies with a line each, and those that cannot be used with the reason."""
    studies = survey()
    lines = [told("plan and compute a study or a plan in TOML")]
    lines += [f"{name}: {told(study.HELP)}" for name, study in sorted(studies.studies.items())]
    lines += [told(f"{name} cannot be used: {reason}") for name, reason in sorted(studies.unusable.items())]
    return "; ".join(lines)


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=commands.EXECUTORS, default="inline", help="where cells run")
    parser.add_argument("--workers", type=int, default=2, help="processes or Ray actors (default: 2)")
    parser.add_argument("--address", default="", help="of a Ray cluster; without one a local cluster is started")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs for each Ray actor")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds that one cell may take")


if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
