"""Studies that ship.  A study is a module of this package with a `NAME`: a plan, a figure and a table for one question.

    NAME = "average-effects"                      what the user types
    HELP = "which states carry facts, averaged"   one line for `python -m experiments run --help`

    def add_options(parser: argparse.ArgumentParser) -> None
        The study's own options.

    def plan(options: argparse.Namespace, model: LanguageModel) -> Plan
        The cells.  `options.model` and `options.name` are there for every study: the plan's `model` is what
        `load_model` was given, and its `name` is `options.name`, or one of the study's own if that is empty.

    def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]
        Writes one figure, one table and `record.json`, which has all that is needed to make them again, into the
        folder, and returns their paths.  Called when the run is finished, and by `python -m experiments export`; reads
        the cells with `experiments.ledger.records.entries`, and begins the record with `experiments.studies.record`.

    def follow(ledger: Ledger, run: str) -> Plan | None
        Optional.  Cells that depend on the results of the first ones, such as settings tried at the best layer: a
        second run, named after the first one with a dot between, whose results `summarise` reads.

A study may register kinds of cells, in its own module or in one beside it.  Modules are imported only when studies are
listed or used, and import torch and figures inside their functions.  A module that cannot be imported is listed with
the reason and does not affect the others.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from experiments.ledger.ledger import Ledger
from experiments.places import portable
from experiments.plan import Plan
from facts.words import counted

if TYPE_CHECKING:
    from models import LanguageModel


class Study(Protocol):
    """What a module of this package needs to be a study."""

    NAME: str
    HELP: str

    def add_options(self, parser: ArgumentParser) -> None:
        """The study's own options."""

    def plan(self, options: Namespace, model: LanguageModel) -> Plan:
        """The cells."""

    def summarise(self, ledger: Ledger, run: str, folder: Path) -> list[Path]:
        """Write figure, table and record; the files written."""


OFFERED = ("HELP", "add_options", "plan", "summarise")
"""What a module with a `NAME` needs as well."""


@dataclass(frozen=True)
class Survey:
    """The modules of this package."""

    studies: Mapping[str, Study]
    """By name."""
    unusable: Mapping[str, str]
    """Name -> why it cannot be used, for modules that cannot be imported or are incomplete."""


def survey() -> Survey:
    """Import every module of this package that can be."""
    studies: dict[str, Study] = {}
    unusable: dict[str, str] = {}
    for module in pkgutil.iter_modules(__path__):
        name = module.name.replace("_", "-")
        try:
            imported: Any = importlib.import_module(f"{__name__}.{module.name}")
        except Exception as error:  # one broken module must not affect the others
            told = isinstance(error, ImportError | SyntaxError)
            unusable[name] = f"it cannot be imported ({error if told else f'{type(error).__name__}: {error}'})"
            continue
        if not hasattr(imported, "NAME"):
            continue
        missing = [part for part in OFFERED if not hasattr(imported, part)]
        if missing:
            unusable[imported.NAME] = f"its module {module.name!r} has no {missing[0]!r}"
        elif imported.NAME in studies:
            unusable[name] = f"its name {imported.NAME!r} is that of another study"
        else:
            studies[imported.NAME] = cast(Study, imported)
    return Survey(studies, unusable)


def get_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ValueError: if there is none, or it cannot be used.
    """
    available = survey()
    if name in available.studies:
        return available.studies[name]
    if name in available.unusable:
        raise ValueError(f"the study {name!r} cannot be used: {available.unusable[name]}; mend or remove its module")
    near = get_close_matches(name, available.studies, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    choices = ", ".join(available.studies) or "none yet"
    raise ValueError(f"unknown study {name!r}; {hint}there is {choices}, or give a plan in a .toml file")


def record(ledger: Ledger, run: str) -> dict[str, Any]:
    """The record of a summary: the run, its plan's settings, the model and libraries, and the number of cells; full
    paths are shortened."""
    info = ledger.info(run)
    values: dict[str, Any] = {
        "run": run,
        "model": info.model,
        "dtype": info.dtype,
        "device": info.device,
        "identity": dict(info.identity),
        "about": dict(info.about),
        "planned": info.made,
        "cells": ledger.counts(run),
    }
    whole: dict[str, Any] = portable(values)
    return whole


def unfinished(ledger: Ledger, run: str) -> str:
    """Note for the summary of an incomplete run, "n of m cells done"; empty if every cell is done."""
    counts = ledger.counts(run)
    total = sum(counts.values())
    return (
        ""
        if counts["done"] == total
        else f"{counts['done']} of {counted(total, 'cell')} done; the rest is missing here"
    )


def write_record(path: Path, values: dict[str, Any]) -> Path:
    """Write a record as JSON; the path."""
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
