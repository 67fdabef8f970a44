"""Studies that ship: plans with a question, each a module of this package that is found by its `NAME`.

    NAME = "average-effects"                      what the user types
    HELP = "which states carry facts, averaged"   one line for `python -m experiments run --help`

    def add_options(parser: argparse.ArgumentParser) -> None
        The study's own options.

    def plan(options: argparse.Namespace, model: LanguageModel) -> Plan
        The cells.  `options.model` and `options.name` are there for every study: the plan's `model` is what
        `load_model` was given, and its `name` is `options.name`, or one of the study's own if that is empty.

    def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]
        One figure, one table and `record.json` with what is needed to make them again, written into the folder; the
        files written.  Called when the run is finished, and by `python -m experiments export`; reads the cells with
        `experiments.records.entries`.  `record.json` is begun by `experiments.studies.record`.

A study may register kinds of cells of its own; they stand in its module.  Modules are imported only when studies are
listed or one is asked for, and import torch and figures inside their functions.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from argparse import ArgumentParser, Namespace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from experiments.ledger import Ledger
from experiments.plan import Plan

if TYPE_CHECKING:
    from models import LanguageModel


class Study(Protocol):
    """What a module of this package offers to be a study."""

    NAME: str
    HELP: str

    def add_options(self, parser: ArgumentParser) -> None:
        """The study's own options."""

    def plan(self, options: Namespace, model: LanguageModel) -> Plan:
        """The cells."""

    def summarise(self, ledger: Ledger, run: str, folder: Path) -> list[Path]:
        """Write figure, table and record; the files written."""


def all_studies() -> dict[str, Study]:
    """Name -> study, for every module of this package that is one."""
    found: dict[str, Study] = {}
    for module in pkgutil.iter_modules(__path__):
        imported: Any = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(imported, "NAME"):
            found[imported.NAME] = cast(Study, imported)
    return found


def get_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ValueError: if there is none.
    """
    studies = all_studies()
    if name not in studies:
        near = get_close_matches(name, studies, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        choices = ", ".join(studies) or "none yet"
        raise ValueError(f"unknown study {name!r}; {hint}there is {choices}, or give a plan in a .toml file")
    return studies[name]


def record(ledger: Ledger, run: str) -> dict[str, Any]:
    """What a summary has to name: the run, its plan's settings, the model and libraries, and how many cells count."""
    info = ledger.info(run)
    return {
        "run": run,
        "model": info.model,
        "dtype": info.dtype,
        "device": info.device,
        "identity": dict(info.identity),
        "about": dict(info.about),
        "planned": info.made,
        "cells": ledger.counts(run),
    }


def write_record(path: Path, values: dict[str, Any]) -> Path:
    """Write a record as JSON; the path."""
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
