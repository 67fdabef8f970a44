"""What each command of `python -m experiments` does."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from experiments.ledger.backup import back_up
from experiments.ledger.backup import restore as from_backup
from experiments.ledger.ledger import Ledger
from experiments.ledger.owners import host_of
from experiments.ledger.records import damaged, mend
from experiments.ledger.schema import LedgerError
from experiments.runner import Progress, execute, progress_of
from experiments.studies import Study, get_study, survey, unfinished
from experiments.workers.inline import Inline
from experiments.workers.messages import Executor, Setup

if TYPE_CHECKING:
    from experiments.plan import Plan
    from models import LanguageModel

EXECUTORS = ("inline", "processes", "ray")
FORMATS = ("tables", "easyedit")
SHOWN = 20
"""Most failures listed."""


def run(options: argparse.Namespace) -> int:
    """Plan, store the plan, compute, summarise."""
    model, plan = _planned(options)
    from experiments.identity import identity_of

    folder = options.out or Path("runs") / plan.name
    with Ledger(folder, network=options.network) as ledger:
        name = ledger.add(plan, identity_of(model))
        _say(f"{len(plan.cells)} cells in {folder}, run {name!r}")
        if options.executor != "inline":
            model = None  # workers load their own; this one would only take memory
        return _work(ledger, name, options, model)


def resume(options: argparse.Namespace) -> int:
    """Go on with a run."""
    with _opened(options) as ledger:
        return _work(ledger, ledger.only_run(options.run), options, None)


def retry(options: argparse.Namespace) -> int:
    """Compute failed cells again, and whatever else is left."""
    with _opened(options) as ledger:
        name = ledger.only_run(options.run)
        _say(f"{ledger.retry(name)} failed cells are tried again")
        return _work(ledger, name, options, None)


def status(options: argparse.Namespace) -> int:
    """Print counts, the processes at work, and failures with their reasons."""
    with _opened(options) as ledger:
        standings = [_status(ledger, name) for name in ledger.runs() if options.run in ("", name)]
    if options.json:
        print(json.dumps(standings, indent=1))
        return 0
    for run in standings:
        counts = run["cells"]
        print(f"{run['run']}: {', '.join(f'{n} {status}' for status, n in counts.items())}")
        if run["working"]:
            print(f"  {run['pace']}")
        for who in run["working"]:
            print(f"  at work: {who['executor']} on {who['host']}, last sign of life {who['seconds_ago']:.0f} s ago")
        for failure in run["failures"]:
            print(f"  failed: {failure['kind']} {failure['key'][:12]} after {failure['attempts']}: {failure['reason']}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write tables of every cell and score and the study's figure, or the edits in EasyEdit's format."""
    from experiments.easyedit import write_results

    write = {"tables": _export, "easyedit": write_results}[options.format]
    with _opened(options) as ledger:
        run = ledger.only_run(options.run)
        for path in write(ledger, run):
            print(path)
        if note := unfinished(ledger, run):
            _say(f"note: {note}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Verify every row's hash."""
    bad = 0
    with _opened(options) as ledger:
        for name in ledger.runs():
            damage_of = mend(ledger, name) if options.mend else damaged(ledger, name)
            bad += len(damage_of)
            for key, damage in damage_of.items():
                print(f"{name}: cell {key[:12]}: {damage}")
            total = sum(ledger.counts(name).values())
            done = " and taken out" if options.mend and damage_of else ""
            print(f"{name}: {total} cells checked, {len(damage_of)} damaged{done}")
    return 1 if bad and not options.mend else 0


def backup(options: argparse.Namespace) -> int:
    """Write the ledger into one file, also while cells are computed."""
    with _opened(options) as ledger:
        print(f"{options.file}: {back_up(ledger, options.file)} cells")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Make a ledger from such a file."""
    if options.out is None:
        raise LedgerError("restore needs a new folder; give --out")
    print(f"{options.out}: {from_backup(options.file, options.out)} cells")
    return 0


def _planned(options: argparse.Namespace) -> tuple[LanguageModel | None, Plan]:
    from experiments.plan_files import DEFAULTS, SET_ASIDE, loading, plan_of, read_plan_file

    study: Study | None = options.study
    tables = dict(DEFAULTS) if study else read_plan_file(options.what)
    given = {name: getattr(options, name) for name in (*DEFAULTS, "name")}
    tables |= {name: value for name, value in given.items() if value}
    model = _load(tables)
    if model is not None:  # what "auto" resolved to, so that resuming uses the same
        tables["dtype"] = str(model.dtype).removeprefix("torch.")
        tables["device"] = "auto" if tables["device_map"] else str(model.device)
    if study is None:
        plan = plan_of(tables, model)
        for note in plan.about.get(SET_ASIDE, ()):
            _say(f"note: {note}")
        return model, plan
    options.model = tables["model"]
    plan = study.plan(options, model)  # type: ignore[arg-type]  # a study has a model
    about = {"study": study.NAME, **plan.about, **loading(tables)}
    return model, replace(plan, about=about, dtype=tables["dtype"], device=tables["device"])


def _load(tables: dict[str, Any]) -> LanguageModel | None:
    if not tables["model"]:
        return None
    from experiments.workers.worker import load

    how = {name: tables[name] for name in ("device_map", "load", "chat")}
    return load(Setup(tables["model"], tables["dtype"], tables["device"], {}, (), **how))


def _work(ledger: Ledger, name: str, options: argparse.Namespace, model: LanguageModel | None) -> int:
    executor = _executor(options, model)
    with _stoppable() as stop:
        end = execute(ledger, name, executor, deadline=options.deadline, progress=_shown(), stop=stop)
    _say(f"{end.done} done, {end.failed} failed, {end.left} left of {end.total}")
    if end.left:
        _say(f"stopped; go on with: python -m experiments resume --out {ledger.folder}")
        return 1
    if end.failed:
        for failure in _status(ledger, name)["failures"][:SHOWN]:
            _say(f"failed: {failure['key'][:12]}: {failure['reason']}")
    if second := _following(ledger, name):
        _say(f"{sum(ledger.counts(second).values())} cells follow from these, run {second!r}")
        if _work(ledger, second, options, model):
            return 1
    for path in _export(ledger, name):
        print(path)
    return 1 if end.failed else 0


def _following(ledger: Ledger, name: str) -> str:
    """The run that a study plans from the results of its first one; empty if it plans none."""
    info = ledger.info(name)
    study = survey().studies.get(info.about.get("study", ""))  # one that cannot be used costs its figure only
    follow = getattr(study, "follow", None)
    plan = follow(ledger, name) if follow else None
    return ledger.add(plan, info.identity) if plan else ""


def _executor(options: argparse.Namespace, model: LanguageModel | None) -> Executor:
    if options.executor == "processes":
        from experiments.workers.processes import Processes

        return Processes(options.workers)
    if options.executor == "ray":
        from experiments.workers.ray_cluster import RayCluster

        return RayCluster(options.workers, address=options.address, gpus=options.gpus)
    from experiments.workers.processes import one_thread

    one_thread()  # like the other executors' workers, so that all give the same bits
    return Inline(model)


def _export(ledger: Ledger, name: str) -> Iterator[Path]:
    """Write the files and yield each path; a broken study costs only its figure."""
    from experiments.summary import averaged, axes, cells_frame, scores_frame, write_table

    folder = ledger.folder / name
    frames = {"cells": cells_frame(ledger, name), "scores": scores_frame(ledger, name)}
    for what, frame in frames.items():
        for ending in (".parquet", ".csv") if len(frame) else ():
            yield write_table(frame, folder / f"{what}{ending}")
    if len(frames["scores"]):
        by = ["method", "layer", *axes(frames["scores"]), "name", "protocol", "unit"]
        means = averaged(frames["scores"], "after", by)
        for ending in (".csv", ".tex"):
            yield write_table(means, folder / f"means{ending}")
    study = ledger.info(name).about.get("study")
    if study:
        yield from get_study(study).summarise(ledger, name, folder)


def _status(ledger: Ledger, name: str) -> dict[str, Any]:
    working = [
        {"host": host_of(owner), "executor": executor, "seconds_ago": ago}
        for owner, executor, ago in ledger.working(name)
    ]
    pace = line(progress_of(ledger, name))
    failures = ledger.failures(name)
    return {"run": name, "cells": ledger.counts(name), "pace": pace, "working": working, "failures": failures}


def _opened(options: argparse.Namespace) -> Ledger:
    if options.out is None:
        folders = sorted(path.parent for path in Path("runs").glob("*/ledger.sqlite"))
        if len(folders) != 1:
            raise LedgerError(
                f"which run? there are {len(folders)} in 'runs' ({', '.join(map(str, folders)) or 'none'}); give --out"
            )
        options.out = folders[0]
    return Ledger(options.out, create=False, network=options.network)


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks to stop after the current cells, the second stops at once."""
    signals: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        _say("\nstopping once the current cells are done; again to stop at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown() -> Callable[[Progress], None]:
    """Show progress: one line rewritten in place on a terminal, a new line every 30 s in a pipe."""
    terminal = sys.stderr.isatty()
    last = -1e9 if terminal else monotonic()

    def show(now: Progress) -> None:
        nonlocal last
        if monotonic() - last < (0.2 if terminal else 30):
            return
        last = monotonic()
        print(
            f"\r{line(now)}\x1b[K" if terminal else line(now), end="" if terminal else "\n", file=sys.stderr, flush=True
        )

    return show


def line(now: Progress) -> str:
    """Progress of a run in words."""
    words = [f"{now.done}/{now.total} done"]
    if now.failed:
        words.append(f"{now.failed} failed")
    if now.rate:
        words.append(f"{now.rate:.2f} cells/s" if now.rate >= 1 else f"{1 / now.rate:.3g} s a cell")
    if now.seconds_left is not None:
        hours, rest = divmod(round(now.seconds_left), 3600)
        words.append(f"{hours}:{rest // 60:02d}:{rest % 60:02d} left")
    if now.stage or (now.running and not now.rate):
        stage = f" ({now.stage})" if now.stage else ""
        words.append(f"current cell {now.cell_seconds:.0f} s{stage}")
    return ", ".join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
