"""How many edits does a model survive?  Edits one after the other until it breaks, by several methods.

Perplexity of ordinary text is the sign of collapse (Yang et al. 2024, arXiv:2402.09656); beside it stand the shares of
edits so far that still hold, of their paraphrases, and of neighbours that keep their answers.  The same facts
are edited by every method in the same order; `--orders` draws several orders.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.cells.rewrite import layer_for, trimmed
from experiments.cells.sequence import METRICS
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Cell, Plan
from experiments.studies.parts import output
from experiments.studies.parts.edit_options import add_edit_options, asked_of, settings_of
from experiments.studies.parts.known import draw_requests
from facts.records import request_record

if TYPE_CHECKING:
    from models import LanguageModel

NAME = "sequential-collapse"
HELP = "edits one after the other until the model breaks"
METHODS = ("rome", "r-rome", "memit", "alphaedit")
BROKEN = 2.0
"""Factor of perplexity, against the unedited model, above which a model is called broken."""


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_edit_options(parser, 40, "edits in a row")
    parser.add_argument(
        "--methods", nargs="+", default=["rome", "r-rome", "memit", "alphaedit"], help="editing methods"
    )
    parser.add_argument("--layer", type=int, default=1, help="for methods without a layer of their own")
    parser.add_argument("--every", type=int, default=5, help="edits between two points of the curve")
    parser.add_argument("--orders", type=int, default=1, help="orders of the edits")
    parser.add_argument("--probes", type=int, default=2, help="paraphrases and neighbours of an edit")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every method and order."""
    if options.orders < 1:
        raise ValueError(f"{options.orders} orders were asked for; expected at least 1")
    drawn = draw_requests(
        model, options.source, options.facts, options.seed, options.all_facts, options.keep_same_answers
    )
    method_settings = settings_of(options, options.methods)
    cells = []
    for order in range(options.orders):
        requests = [request_record(trimmed(request, options.probes)) for request in drawn.items]
        if order:
            random.Random(f"order|{options.seed}|{order}").shuffle(requests)
        for method in options.methods:
            layer = layer_for(method, options.layer)
            spec = {"requests": requests, "method": method, "layer": layer, "every": options.every}
            cells.append(Cell("sequence", spec | {"settings": method_settings[method]}))
    settings = {name: getattr(options, name) for name in ("facts", "seed", "source", "layer", "orders")}
    about = {"options": {**settings, **asked_of(options), "methods": list(options.methods)}, **drawn.about}
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Curves over the number of edits, and when each method broke the model."""
    from experiments.studies.parts.plots import collapse_figure

    info = ledger.info(run)
    finished = [entry for entry in entries(ledger, run) if entry.payload is not None]
    table = curves(finished)
    ends = outcomes(finished)
    facts, orders = (info.about["options"][name] for name in ("facts", "orders"))
    title = f"{facts} edits in a row" + (f", in {orders} orders" if orders > 1 else "")
    numbers = {"n": info.about["options"]["facts"], "methods": ends}
    return output.write(ledger, run, folder, output.Output(title, collapse_figure(table), table, _shown(ends), numbers))


def curves(finished: Sequence[Entry]) -> pd.DataFrame:
    """One row per method and number of edits: shares of all prompts of all orders, and the median perplexity of the
    orders (None where none is finite).

    The orders ask about the same facts, so the Wilson intervals are for as many prompts as one of them has.

    Raises:
        ValueError: if nothing is finished.
    """
    from metrics.statistics import wilson

    if not finished:
        raise ValueError("no sequence is finished, so there is no curve; resume the run")
    gathered: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for entry in finished:
        for point in (entry.result or {})["points"]:
            gathered.setdefault((entry.spec["method"], point["n_edits"]), []).append(point)
    rows = []
    for (method, n_edits), points in gathered.items():
        perplexities = [point["perplexity"] for point in points if point["perplexity"] is not None]
        row: dict[str, Any] = {"method": method, "n_edits": n_edits, "orders": len(points)}
        row["perplexity"] = float(pd.Series(perplexities).median()) if perplexities else None
        for name in METRICS:
            right, n = (sum(point[name][place] for point in points) for place in (0, 1))
            low, high = wilson(right / len(points), n / len(points)) if n else (None, None)
            row |= {f"{name}_n": n, name: right / n if n else None, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def outcomes(finished: Sequence[Entry]) -> list[dict[str, Any]]:
    """One record per method: how its sequences end.

    `broken_at` lists, for each order, the number of edits at which perplexity was first more than twice the unedited
    model's, None where it never was.  `held_when_made` and `retention` are shares over the edits of all orders.
    """
    ends = []
    for method in dict.fromkeys(entry.spec["method"] for entry in finished):
        results = [entry.result or {} for entry in finished if entry.spec["method"] == method]
        made = [counts for result in results for counts in result["immediate"] if counts is not None]
        last = [result["points"][-1] for result in results]
        held = sum(counts["reliability"][0] for counts in made)
        kept = sum(point["reliability"][0] for point in last)
        prompts = sum(point["reliability"][1] for point in last)
        ends.append(
            {
                "method": method,
                "edits": sum(len(result["immediate"]) for result in results),
                "failed": sum(len(result["failed"]) for result in results),
                "held_when_made": held / len(made) if made else None,
                "held_at_the_end": [kept, prompts],
                "perplexity_before": [result["points"][0]["perplexity"] for result in results],
                "perplexity_after": [point["perplexity"] for point in last],
                "broken_at": [broken_at(result["points"]) for result in results],
            }
        )
    return ends


def broken_at(points: Sequence[dict[str, Any]]) -> int | None:
    """The first number of edits at which perplexity is not finite or more than twice the unedited model's."""
    start = points[0]["perplexity"]
    for point in points[1:]:
        if point["perplexity"] is None or point["perplexity"] > BROKEN * start:
            return int(point["n_edits"])
    return None


def _shown(ends: Sequence[dict[str, Any]]) -> str:
    from metrics.statistics import wilson

    def number(value: float | None) -> str:
        return "not finite" if value is None else f"{value:.4g}"

    rows = []
    for end in ends:
        kept, prompts = end["held_at_the_end"]
        orders = len(end["broken_at"])  # as in `curves`
        share = output.between(kept / prompts, *wilson(kept / orders, prompts / orders), 2) if prompts else "–"
        rows.append(
            (
                end["method"],
                end["edits"],
                end["failed"],
                output.between(end["held_when_made"], None, None, 2),
                share,
                ", ".join(map(number, end["perplexity_before"])),
                ", ".join(map(number, end["perplexity_after"])),
                ", ".join("never" if at is None else str(at) for at in end["broken_at"]),
            )
        )
    headers = ("Method", "edits", "failed", "held when made", "held at the end (95 % interval)")
    return output.markdown(
        (*headers, "perplexity before", "after", "edits until perplexity doubled (looked at every few)"), rows
    )
