"""Does tracing say where to edit?  Edit success against tracing effect at every layer.

Hase et al. 2023 (arXiv:2301.04213): every fact is edited at every layer, and traced at its last subject token; success
is regressed on the layer and on the tracing effect (`experiments.studies.parts.regression`).  They found that the layer
explains nearly everything and tracing next to nothing.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.cells.rewrite import SCORES, scores_of, trimmed
from experiments.cells.trace import level_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Cell, Plan, canonical
from experiments.studies.average_effects import PAPER_WINDOW
from experiments.studies.parts import output
from experiments.studies.parts.edit_options import add_edit_options, asked_of, settings_of
from experiments.studies.parts.known import draw_requests
from experiments.studies.parts.regression import FEWEST, Array, Regression, regress
from facts.records import request_record

if TYPE_CHECKING:
    from models import LanguageModel

NAME = "layer-sweep"
HELP = "edit success against tracing effect, layer by layer"


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_edit_options(parser, 20)
    parser.add_argument("--method", default="r-rome", help="an editing method with a layer")
    parser.add_argument("--layers", type=int, nargs="+", default=None, help="to edit at (default: all)")
    parser.add_argument("--samples", type=int, default=5, help="noise draws of a trace")
    parser.add_argument("--window", type=int, default=None, help="layers of MLPs restored together (default: a fifth)")
    parser.add_argument("--probes", type=int, default=2, help="paraphrases and neighbours of an edit")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """Cells of the study: a trace of every fact, and an edit of every fact at every layer."""
    from editing.requests import check_layer
    from tracing import measure_noise

    if options.facts < 2:
        raise ValueError(f"{options.facts} facts were asked for; expected at least 2, over which layers are compared")
    drawn = draw_requests(
        model, options.source, options.facts, options.seed, options.all_facts, options.keep_same_answers
    )
    window = options.window or max(1, int(PAPER_WINDOW * model.n_layers + 0.5))
    layers = sorted(set(options.layers or range(model.n_layers)))
    for layer in layers:
        check_layer(model, layer)
    level = level_of(measure_noise(model, [request.fact.subject for request in drawn.items]))
    method_settings = settings_of(options, [options.method])[options.method]
    cells = []
    for number, request in enumerate(drawn.items):
        shared = {"site": "mlp_out", "window": window, "samples": options.samples}
        seed = options.seed * len(drawn.items) + number
        fact = asdict(request.fact)
        cells.append(
            Cell("trace", {"fact": fact, "level": level, "positions": ["last_subject"], "seed": seed, **shared})
        )
        short = request_record(trimmed(request, options.probes))
        edit = {"request": short, "method": options.method, "settings": method_settings}
        cells += [Cell("rewrite", {**edit, "layer": layer}) for layer in layers]
    settings = {name: getattr(options, name) for name in ("facts", "seed", "source", "method", "samples", "probes")}
    about = {"options": {**settings, **asked_of(options), "window": window, "layers": layers}, **drawn.about}
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Both curves by layer, their relation within layers, and the regression."""
    from experiments.studies.parts.plots import sweep_figure

    info = ledger.info(run)
    cells = list(entries(ledger, run))
    # leave out layers where the method cannot edit, such as an MLP that is silent at the subject
    edited = {cell.spec["layer"] for cell in cells if cell.kind == "rewrite" and cell.payload is not None}
    layers = [layer for layer in info.about["options"]["layers"] if layer in edited]
    effect, scores = arrays_of(cells, layers)
    table = by_layer(layers, effect, scores)
    fits = {
        name: regress(effect, values, seed=info.about["options"]["seed"])
        for name, values in scores.items()
        if np.isfinite(values).all()
    }
    chosen = choices(layers, effect, scores["rewrite"])
    numbers = {
        "n": len(effect),
        "layers": layers,
        "regression": {
            name: {part: _plain(value) for part, value in asdict(fit).items()} for name, fit in fits.items()
        },
        "choices": chosen,
    }
    method = info.about["options"]["method"]
    title = f"{len(effect)} facts edited by {method} at {len(layers)} layers, and traced"
    shown = f"{_fits_table(fits)}\n{_choices_table(chosen)}\n{_layers_table(table)}"
    figure = sweep_figure(table, effect, scores["rewrite"], fits["rewrite"], method)
    return output.write(ledger, run, folder, output.Output(title, figure, table, shown, numbers))


def arrays_of(finished: Iterable[Entry], layers: list[int]) -> tuple[Array, dict[str, Array]]:
    """(tracing effect, score -> success), each [fact, layer], for the facts whose cells are all finished.

    Raises:
        ValueError: if fewer than two are.
    """
    from tracing.types import CATEGORIES

    effects: dict[str, Array] = {}
    edits: dict[str, dict[int, dict[str, float | None]]] = {}
    for entry in finished:
        result = entry.result
        if result is None:
            continue
        if entry.kind == "trace":
            whole = result["by_category"][CATEGORIES.index("last_subject")]
            effects[canonical(entry.spec["fact"])] = whole[layers].astype(np.float64)
        else:
            at = edits.setdefault(canonical(entry.spec["request"]["fact"]), {})
            at[entry.spec["layer"]] = scores_of(result)
    facts = [fact for fact in effects if set(layers) <= edits.get(fact, {}).keys()]
    if len(facts) < 2:
        raise ValueError(f"{len(facts)} facts are traced and edited at all layers; at least two are needed, so resume")
    scores = {
        name: np.array([[edits[fact][layer][name] for layer in layers] for fact in facts], dtype=np.float64)
        for name in SCORES
    }
    return np.stack([effects[fact] for fact in facts]), scores


def by_layer(layers: list[int], effect: Array, scores: dict[str, Array]) -> pd.DataFrame:
    """One row a layer: mean of the tracing effect and of each score over the n facts that have it, with its 95 %
    bootstrap interval over facts."""
    from metrics.statistics import bootstrap

    rows = []
    for place, layer in enumerate(layers):
        row: dict[str, Any] = {"layer": layer}
        for name, values in {"effect": effect, **scores}.items():
            present = values[:, place][~np.isnan(values[:, place])]
            low, high = (bootstrap(present) if len(present) else None) or (None, None)
            row |= {name: float(present.mean()) if len(present) else None, f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_n"] = len(present)
        rows.append(row)
    return pd.DataFrame(rows)


def choices(layers: list[int], effect: Array, success: Array) -> dict[str, Any]:
    """Mean success of three ways of choosing a layer, with 95 % bootstrap intervals over facts.

    `fixed` is the layer that is best for the *other* facts, so that no fact influences its own choice.
    """
    from metrics.statistics import bootstrap

    n = len(success)
    others = (success.sum(axis=0) - success) / (n - 1)  # [fact, layer], mean over the other facts
    each = np.arange(n)
    chosen = {
        "traced": success[each, effect.argmax(axis=1)],
        "fixed": success[each, others.argmax(axis=1)],
        "best": success.max(axis=1),
    }
    by_choice: dict[str, Any] = {}
    for name, values in chosen.items():
        by_choice[name] = {"success": float(values.mean()), "ci": list(bootstrap(values) or (None, None)), "n": n}
    return by_choice | {"best_layer": layers[int(success.mean(axis=0).argmax())]}


def _fits_table(fits: dict[str, Regression]) -> str:
    shown = {name: fit for name, fit in fits.items() if fit.n_facts >= FEWEST}
    if not shown:
        return f"Fewer than {FEWEST} facts: too few for a regression.\n"
    headers = ("Score", "n facts x layers", "R² layer", "R² tracing", "R² both", "added by tracing", "slope")
    return output.markdown(
        headers,
        [
            (
                name,
                f"{fit.n_facts} x {fit.n_layers}",
                f"{fit.r2_layers:.3f}",
                f"{fit.r2_tracing:.3f}",
                f"{fit.r2_both:.3f}",
                output.between(fit.added, *(fit.added_ci or (None, None))),
                output.between(fit.slope, *(fit.slope_ci or (None, None))),
            )
            for name, fit in shown.items()
        ],
    )


def _choices_table(by_choice: dict[str, Any]) -> str:
    words = {
        "traced": "each fact's own tracing peak",
        "fixed": "the layer best for the other facts",
        "best": "each fact's own best layer, known afterwards",
    }
    return output.markdown(
        ("Layer edited", "n", "rewrite score (95 % interval)"),
        [
            (text, by_choice[name]["n"], output.between(by_choice[name]["success"], *by_choice[name]["ci"]))
            for name, text in words.items()
        ],
    )


def _layers_table(table: pd.DataFrame) -> str:
    names = ("effect", *SCORES)
    rows = [
        (row["layer"], *(output.between(row[name], row[f"{name}_low"], row[f"{name}_high"], 2) for name in names))
        for row in table.to_dict("records")
    ]
    return output.markdown(("Layer", "tracing effect", *SCORES), rows)


def _plain(value: Any) -> Any:
    """Replace NaN by None and tuples by lists."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
