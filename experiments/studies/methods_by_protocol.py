"""Which method is best under which protocol?  The same edits by several methods, measured under every protocol.

Protocols ask different questions (docs/protocols.md), so that their numbers have no common mean.  What can be compared
is whether they put the methods in the same order.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.cells.protocols import scores_of, subject_of
from experiments.cells.rewrite import fewer, layer_for
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Cell, Plan
from experiments.studies.parts import output
from experiments.studies.parts.edit_options import add_edit_options, asked_of, settings_of
from experiments.studies.parts.known import ATLAS, draw_cases, draw_requests
from facts import Case, EditRequest
from facts.importers import record_of
from facts.records import request_record
from metrics.definitions import PROMPTED

if TYPE_CHECKING:
    from models import LanguageModel

NAME = "methods-by-protocol"
HELP = "editing methods compared under every protocol"
METHODS = ("r-rome", "memit", "ft-m", "grace")


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_edit_options(parser, 20, "facts to edit")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="editing methods")
    parser.add_argument("--layer", type=int, default=1, help="for methods without a layer of their own")
    parser.add_argument("--protocols", nargs="+", default=None, help="ways of measuring (default: all)")
    parser.add_argument("--probes", type=int, default=2, help="paraphrases and neighbours of an edit")
    parser.add_argument("--snippets", default="", help="ROME's attribute_snippets.json, for RS and essence")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every fact and method."""
    from metrics.protocols import PROTOCOLS

    draw = draw_requests if options.source == ATLAS else draw_cases
    drawn = draw(model, options.source, options.facts, options.seed, options.all_facts, options.keep_same_answers)
    names = list(options.protocols or PROTOCOLS)
    methods = list(options.methods)
    cells = []
    method_settings = settings_of(options, methods)
    snippets = {"snippets": options.snippets} if options.snippets else {}
    for item in drawn.items:
        shared = {**_edited(item, options.probes), "protocols": names, "seed": options.seed, **snippets}
        for method in methods:
            edit = {"method": method, "layer": layer_for(method, options.layer), "settings": method_settings[method]}
            cells.append(Cell("protocols", shared | edit))
    settings = {name: getattr(options, name) for name in ("facts", "seed", "source", "layer", "probes")}
    about = {
        "options": {**settings, **asked_of(options), **snippets, "methods": methods, "protocols": names},
        **drawn.about,
    }
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def _edited(item: EditRequest | Case, probes: int) -> dict[str, Any]:
    """What a cell is about, with so many paraphrases and neighbours of each edit."""
    if isinstance(item, EditRequest):
        return {"request": request_record(fewer(item, probes))}
    return {"case": record_of(replace(item, requests=tuple(fewer(request, probes) for request in item.requests)))}


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Write the headlines of every protocol by method as a figure, and all numbers as a table."""
    from experiments.studies.parts.plots import protocols_figure

    info = ledger.info(run)
    options = info.about["options"]
    table = compared(entries(ledger, run), seed=options["seed"])
    heads = headlines(table)
    title = f"{options['facts']} edits by {len(options['methods'])} methods under {len(options['protocols'])} protocols"
    numbers = {"n": options["facts"], "headlines": heads.astype(object).where(heads.notna(), None).to_dict("records")}
    figure = protocols_figure(heads, PROMPTED)
    return output.write(ledger, run, folder, output.Output(title, figure, table, _shown(heads), numbers))


def compared(finished: Iterable[Entry], *, seed: int = 0) -> pd.DataFrame:
    """One row per method, protocol and number: mean over edits with its 95 % bootstrap interval, n, the unedited
    model's.  Only facts that every method has edited count.

    Raises:
        ValueError: if there is no such fact.
    """
    from metrics.protocols import summarise as mean_over_cases

    results: dict[str, dict[str, Any]] = {}
    for entry in finished:
        of_method = results.setdefault(entry.spec["method"], {})
        if entry.result is not None:
            of_method[subject_of(entry.spec)] = scores_of(entry.result)
    shared = set.intersection(*(set(of_method) for of_method in results.values())) if results else set()
    if not shared:
        raise ValueError("there is no fact that every method has edited yet; resume the run")
    rows = []
    for method, of_method in results.items():
        cases = [scores for request, scores in of_method.items() if request in shared]
        for protocol in cases[0]:
            summary = mean_over_cases([scores[protocol] for scores in cases], seed=seed)
            for score in summary.scores:
                low, high = score.ci or (None, None)
                about = {"method": method, "protocol": protocol, "name": score.name, "unit": score.unit}
                numbers = {"value": score.value, "ci_low": low, "ci_high": high, "before": score.before, "n": score.n}
                rows.append({**about, **numbers, "seed": seed})
    return pd.DataFrame(rows)


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Of each protocol, the numbers nearest to each of the metrics, with the metric's name."""
    from metrics.protocols import get_protocol

    parts = []
    for protocol in table["protocol"].unique():
        for metric, name in get_protocol(protocol).headlines.items():
            part = table[(table["protocol"] == protocol) & (table["name"] == name)]
            if metric in PROMPTED:
                parts.append(part.assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def _shown(heads: pd.DataFrame) -> str:
    rows = []
    for (method, protocol), part in heads.groupby(["method", "protocol"], sort=False):
        by_metric = {row["metric"]: row for row in part.to_dict("records")}
        cells = [_cell(by_metric.get(metric)) for metric in PROMPTED]
        rows.append((method, protocol, part["n"].max(), *cells))
    return output.markdown(("Method", "Protocol", "n", *PROMPTED), rows)


def _cell(row: dict[Any, Any] | None) -> str:
    if row is None or pd.isna(row["value"]):
        return "–"
    low, high = (None if pd.isna(row[end]) else row[end] for end in ("ci_low", "ci_high"))
    return output.between(row["value"], low, high, 2)
