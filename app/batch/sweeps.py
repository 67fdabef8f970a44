"""Experiments on disk: list them, say how far each is, start, stop and resume them.

An experiment is a folder with a ledger (`experiments/`), computed by a separate process that this server starts and
then only reads about: it continues when the page or the server is closed, and any server with this folder shows it.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.language.say import later
from app.server import limits
from app.session.reader import reader
from experiments.ledger.ledger import Ledger
from experiments.ledger.owners import host_of
from experiments.ledger.schema import FILE, LedgerError

if TYPE_CHECKING:
    from experiments.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
LOG, OWNER = "log.txt", "owner.txt"
RATE_OVER = 60
"""The rate is taken over this many finished cells."""
SHOWN_FAILURES = 100
EXECUTOR = "processes"
"""With it, a cell that kills its worker fails alone."""
Command = Literal["resume", "retry"]

_children: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
_lock = threading.RLock()


@dataclass(frozen=True)
class Experiment:
    """One run of a ledger."""

    folder: Path
    run: str
    problem: str = ""
    """Why its ledger cannot be read."""

    @property
    def name(self) -> str:
        """Its name in links and tables."""
        return self.run if self.run == self.folder.name else f"{self.folder.name}/{self.run}"


@dataclass(frozen=True)
class Standing:
    """How far an experiment is."""

    done: int
    failed: int
    total: int
    working: bool
    """Cells are being computed, here or on another machine."""
    starting: bool
    """Its process has started but computes no cell yet."""
    ending: bool
    """Its process writes the tables and figures."""
    rate: float | None
    """Cells per second over the latest `RATE_OVER` cells."""
    last_words: str
    """The end of the log of a process that ended badly."""

    @property
    def left(self) -> int:
        """Cells neither done nor failed."""
        return self.total - self.done - self.failed

    @property
    def live(self) -> bool:
        """A process computes it or writes its tables."""
        return self.working or self.starting or self.ending

    @property
    def seconds_left(self) -> float | None:
        """Time left at `rate`."""
        return self.left / self.rate if self.rate and self.working else None

    @property
    def state(self) -> str:
        """What it does, in a word or two."""
        if self.live:
            working = later("running") if self.working else later("starting")
            return working if self.working or self.starting else later("writing tables")
        if self.left:
            return later("stopped")
        return later("finished with failures") if self.failed else later("finished")


def root() -> Path:
    """Where experiments are kept: `runs` in the folder the server was started in, or what ENGRAM_RUNS names."""
    return Path(os.environ.get("ENGRAM_RUNS") or "runs").absolute()


def experiments() -> list[Experiment]:
    """Every run of every ledger in the folder, the newest first."""
    dated: list[tuple[float, Experiment]] = []
    for path in [root() / FILE, *root().glob(f"*/{FILE}")]:
        if not path.is_file():
            continue
        try:
            with Ledger(path.parent, create=False) as ledger:
                planned = ledger.planned()
        except (LedgerError, OSError) as error:
            dated.append((path.stat().st_mtime, Experiment(path.parent, path.parent.name, str(error))))
            continue
        dated += [(when, Experiment(path.parent, name)) for name, (_, when) in planned.items()]
    return [experiment for _, experiment in sorted(dated, key=lambda pair: -pair[0])]


def shown() -> list[Experiment]:
    """Those that this reader may see, also by a link: where the page is public, their own and those of the shell."""
    if not limits.public():
        return experiments()
    return [experiment for experiment in experiments() if owner_of(experiment) in ("", reader())]


def current(name: str) -> Experiment | None:
    """The shown experiment of that name, even if its ledger cannot be read, so that the page says why; without a name,
    the newest one that is being computed."""
    if name:
        return next((experiment for experiment in shown() if experiment.name == name), None)
    return next((experiment for experiment in shown() if not experiment.problem and standing(experiment).live), None)


def standing(experiment: Experiment) -> Standing:
    """How far it is now.

    Raises:
        LedgerError: if its ledger cannot be read.
    """
    with Ledger(experiment.folder, create=False) as ledger:
        counts, working = ledger.counts(experiment.run), bool(ledger.working(experiment.run))
        times = ledger.finished(experiment.run, RATE_OVER)
    child = _children.get((str(experiment.folder), experiment.run))
    code = None if child is None else child.poll()
    left, idle = counts["todo"] + counts["leased"], child is not None and code is None and not working
    return Standing(
        done=counts["done"],
        failed=counts["failed"],
        total=sum(counts.values()),
        working=working,
        starting=idle and left > 0,
        ending=idle and left == 0,
        rate=_rate(times) if working else None,
        last_words=_last_words(experiment, code) if left else "",
    )


def failures(experiment: Experiment) -> list[dict[str, Any]]:
    """The first of the cells that failed, with the reason."""
    with Ledger(experiment.folder, create=False) as ledger:
        failed = ledger.failures(experiment.run, SHOWN_FAILURES)
    return [{"cell": failure.pop("key")[:12], **failure} for failure in failed]


def start(plan: Plan, identity: Mapping[str, Any], workers: int, owner: str = "") -> Experiment:
    """Write a plan into a new folder and start a process that computes it.

    Args:
        owner: name of the reader who starts it (`app.session.reader`).

    Raises:
        ValueError: if there is an experiment of that name, the folder cannot be written, or too many batches run.
    """
    folder = root() / plan.name
    with _lock:
        if (folder / FILE).exists():
            raise ValueError(f"there is an experiment {plan.name!r} already; choose another name")
        _check_room(owner)
        with Ledger(folder) as ledger:
            experiment = Experiment(folder, ledger.add(plan, identity))
        (folder / OWNER).write_text(owner, encoding="utf-8")
        launch(experiment, "resume", workers)
    return experiment


def owner_of(experiment: Experiment) -> str:
    """The reader who started it on the page; empty for one that the shell started."""
    path = experiment.folder / OWNER
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _check_room(owner: str) -> None:
    """Every batch is several processes, so only so many run at a time; where the page is public, one of each reader.

    Those that an earlier server has started count too.
    """
    children = {key for key, child in _children.items() if child.poll() is None}
    running = [
        experiment
        for experiment in experiments()
        if (str(experiment.folder), experiment.run) in children or (not experiment.problem and _works(experiment))
    ]
    if limits.public() and owner and owner in map(owner_of, running):
        raise ValueError("a batch of yours is running, the most here; stop it, or wait for it to end")
    if len(running) >= limits.most_batches():
        raise ValueError(
            f"{len(running)} batches are running, the most at a time here; stop one, or wait for one to end"
        )


def _works(experiment: Experiment) -> bool:
    with Ledger(experiment.folder, create=False) as ledger:
        return bool(ledger.working(experiment.run))


def launch(experiment: Experiment, command: Command, workers: int) -> None:
    """Start the process that computes what is left, unless one is running already.

    Raises:
        ValueError: if too many batches run.
    """
    with _lock:
        if standing(experiment).live:
            return
        _check_room(owner_of(experiment))
        arguments = [
            "--out",
            str(experiment.folder),
            "--run",
            experiment.run,
            "--executor",
            EXECUTOR,
            "--workers",
            str(workers),
        ]
        with (experiment.folder / LOG).open("ab") as log:
            _children[str(experiment.folder), experiment.run] = subprocess.Popen(
                [sys.executable, "-m", "experiments", command, *arguments],
                cwd=ROOT,
                env=os.environ | {"LANGUAGE": "en"},  # the page says its last words in each reader's language
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the server's terminal is not meant for it
            )


def stop(experiment: Experiment) -> int:
    """Ask the processes of this machine that compute an experiment to stop after their current cells; how many."""
    with Ledger(experiment.folder, create=False) as ledger:
        owners = [owner for owner, _, _ in ledger.working(experiment.run)]
    pids = {int(owner.split("|")[1]) for owner in owners if host_of(owner) == platform.node()}
    child = _children.get((str(experiment.folder), experiment.run))
    if child is not None and child.poll() is None:
        pids.add(child.pid)
    for pid in pids - {os.getpid()}:
        os.kill(pid, signal.SIGTERM)
    return len(pids)


def _rate(times: list[float]) -> float | None:
    """Cells a second over the latest ones, which come first."""
    if len(times) < 2 or times[0] <= times[-1]:
        return None
    return (len(times) - 1) / (times[0] - times[-1])


def _last_words(experiment: Experiment, code: int | None) -> str:
    """Why a process ended early; empty if it was asked to stop or is still running."""
    if code == 2:  # the command says why in its last line
        return _last_line(experiment.folder / LOG).removeprefix("error: ")
    if code is not None and code < 0 and -code != signal.SIGTERM:
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"its process was killed ({signal.Signals(-code).name}{memory})"
    return ""


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4000))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
