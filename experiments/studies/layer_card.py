"""Which layer of a model to edit?  A layer card: edits at a grid of layers, traces and gradients of the same facts.

For facts that the model knows, outside the test subjects of the atlas: the indirect effect of states and MLPs at the
last subject token (Meng et al. 2022, arXiv:2202.05262), the inner product of gradients of Layer Gradient Analysis
(`experiments.cells.gradients`), and edits at some layers of the first two thirds.  Hase et al. 2023 (arXiv:2301.04213)
found that the first says little about the last, so the card also says how the three order the layers.

The rule by which a layer and settings are recommended is that of `experiments.studies.parts.card_numbers`.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.cells.rewrite import fewer
from experiments.cells.trace import level_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.places import shown_name
from experiments.plan import Cell, Plan, canonical
from experiments.studies import unfinished, write_record
from experiments.studies.average_effects import PAPER_WINDOW
from experiments.studies.parts import output
from experiments.studies.parts.card_numbers import (
    SHARES,
    Array,
    correlations,
    curve,
    effects_of,
    layer_rows,
    prompt_of,
    recommend,
    score_of,
    scores_of,
    short,
    shown_tables,
    title_of,
)
from experiments.studies.parts.edit_options import add_edit_options, asked_of, settings_of
from experiments.studies.parts.known import ATLAS, draw_requests
from facts import EditRequest, Probe
from facts.atlas import load_atlas
from facts.records import request_record

if TYPE_CHECKING:
    from models import LanguageModel

NAME = "layer-card"
HELP = "which layer to edit: edits at a grid of layers beside traces and gradients"
TEXTS = 8
"""Ordinary texts whose perplexity is read; more would cost more than the edit."""
DEEPEST = 2 / 3
"""Share of the depth up to which layers are tried."""
PARAPHRASES, NEIGHBOURS, CANDIDATES = 4, 6, 24
"""Prompts of an edit, and other subjects of its relation that are looked at until so many neighbours are known."""
KEPT_FROM = 30
"""Facts from which on a card is put where edits look for one."""
SPLITS = ("validation", "train")
"""Subjects of the atlas whose facts a card is measured on; the test subjects are left for checking it."""
FACTS_IN_A_CELL = 5
FOLLOWS = ".settings"
"""End of the name of the run that tries settings."""


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_edit_options(parser, 30)
    parser.add_argument("--method", default="r-rome", help="an editing method with a layer")
    parser.add_argument("--layers", type=int, nargs="+", default=None, help="to edit at (default: the grid)")
    parser.add_argument("--grid", type=int, default=5, help="layers of the grid, besides the usual one")
    parser.add_argument("--samples", type=int, default=3, help="noise draws of a trace")
    parser.add_argument("--window", type=int, default=None, help="layers of MLPs restored together (default: a fifth)")
    parser.add_argument(
        "--try",
        dest="tried",
        nargs="*",
        default=["stop_loss=0.3", "prefixes=6"],
        metavar="NAME=VALUE",
        help="settings that are tried at the recommended layer, one at a time",
    )


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """Cells of the first part: traces, gradients, and edits at every layer of the grid."""
    from editing.requests import check_layer
    from metrics.statistics import FEWEST
    from tracing import measure_noise

    if options.facts < FEWEST:
        raise ValueError(
            f"{options.facts} facts were asked for; expected at least {FEWEST}, over which layers are compared"
        )
    settings = settings_of(options, [options.method])[options.method]
    for layer in options.layers or ():
        check_layer(model, layer)
    variants_of(options.tried, options)
    drawn = draw_requests(
        model,
        options.source,
        options.facts,
        options.seed,
        options.all_facts,
        options.keep_same_answers,
        splits=SPLITS,
    )
    requests = prompted(model, drawn.items, options.seed, options.source == ATLAS)
    layers = sorted(set(options.layers or ())) or grid_of(model, requests, options.grid)
    window = options.window or max(1, int(PAPER_WINDOW * model.n_layers + 0.5))
    level = level_of(measure_noise(model, [request.fact.subject for request in requests]))
    cells = traces(requests, window, options.samples, options.seed, level)
    for request in requests:
        cells.append(Cell("gradients", {"fact": asdict(request.fact), "target_new": request.target_new}))
    for request in requests:
        cells += [edited(request, options.method, settings, layer) for layer in layers]
    size = {"name": shown_name(model.name), "family": model.architecture.family, "n_layers": model.n_layers}
    about = {
        "options": {
            **{name: getattr(options, name) for name in ("facts", "seed", "source", "method", "samples", "tried")},
            **asked_of(options),
            "layers": layers,
            "window": window,
            "settings": settings,
        },
        "card": {**size, "d_model": model.d_model, "revision": model.revision, "dtype": str(model.dtype)[6:]},
        **drawn.about,
    }
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def grid_of(model: LanguageModel, requests: Sequence[EditRequest], count: int) -> list[int]:
    """`count` layers spread over the first two thirds, and the usual one; from the first layer on at which the MLP is
    not silent at the subjects."""
    import torch

    from editing.parts.keys import fact_position
    from models.forwards.hooks import read_states
    from models.published import usual_layer

    silent = np.zeros(model.n_layers, dtype=np.int64)
    for request in requests:
        ids = torch.tensor([model.encode(request.fact.prompt)])
        at = fact_position(model, request.fact)
        keys = read_states(model, ids, [("mlp_key", layer) for layer in range(model.n_layers)])
        silent += [not bool(keys["mlp_key", layer][0, at].any()) for layer in range(model.n_layers)]
    first = int((2 * silent > len(requests)).argmin())
    last = max(first, round(DEEPEST * (model.n_layers - 1)))
    grid = {round(float(layer)) for layer in np.linspace(first, last, count)}
    return sorted(grid | {max(first, usual_layer(model.n_layers))})


def prompted(
    model: LanguageModel, requests: Sequence[EditRequest], seed: int, of_atlas: bool
) -> tuple[EditRequest, ...]:
    """The requests with a few paraphrases and neighbours.

    A fact of the atlas has few neighbours with its own true answer that a small model knows, so other subjects of the
    relation stand beside them: those the model answers, the ones with the same answer first.
    """
    from editing.train.forward import greedy_right

    if not of_atlas:
        return tuple(fewer(request, NEIGHBOURS) for request in requests)
    atlas = load_atlas()
    candidates: list[list[Probe]] = []
    for request in requests:
        fact = request.fact
        rows = [row for row in atlas.facts if row.relation == fact.relation and row.subject != fact.subject]
        random.Random(f"neighbours|{seed}|{fact.subject}").shuffle(rows)
        rows.sort(key=lambda row: row.object != fact.target_true)
        prompts = [(fact.template.replace("{}", row.subject), row) for row in rows[:CANDIDATES]]
        candidates.append(
            [
                Probe("neighborhood" if row.object == fact.target_true else "unchanged", prompt, row.object)
                for prompt, row in prompts
            ]
        )
    known = iter(greedy_right(model, [(probe.prompt, probe.answer) for some in candidates for probe in some]))
    answered = [[probe for probe in some if next(known)] for some in candidates]
    return tuple(
        replace(
            request,
            probes=(*request.of_kind("paraphrase")[:PARAPHRASES], *probes[:NEIGHBOURS]),
            generation_prompts=(),
        )
        for request, probes in zip(requests, answered, strict=True)
    )


def traces(
    requests: Sequence[EditRequest], window: int, samples: int, seed: int, level: Mapping[str, Any]
) -> list[Cell]:
    """States and MLP outputs at the last subject token, a few facts a cell."""
    cells = []
    for number, start in enumerate(range(0, len(requests), FACTS_IN_A_CELL)):
        shared = {"samples": samples, "seed": seed * len(requests) + number}
        configs = [{"site": "resid_post", **shared}, {"site": "mlp_out", "window": window, **shared}]
        facts = [asdict(request.fact) for request in requests[start : start + FACTS_IN_A_CELL]]
        spec = {"facts": facts, "configs": configs, "level": level, "positions": ["last_subject"]}
        cells.append(Cell("average", spec))
    return cells


def edited(request: EditRequest, method: str, settings: Mapping[str, Any], layer: int) -> Cell:
    """The cell of one edit at one layer."""
    spec = {"request": request_record(request), "method": method, "settings": dict(settings)}
    return Cell("scored", {**spec, "layer": layer, "texts": TEXTS})


def variants_of(tried: Sequence[str], options: Namespace) -> list[dict[str, Any]]:
    """The settings to try, each alone.

    Raises:
        ValueError: if one is not NAME=VALUE, or the method has none of that name.
    """
    alone = Namespace(set=[], corpus="")
    variants = []
    for text in tried:
        alone.set = [text]
        variants.append(settings_of(alone, [options.method])[options.method])
    return variants


def follow(ledger: Ledger, run: str) -> Plan | None:
    """The second part: settings tried at the layer that the first part recommends; None where none is to be tried, or
    no layer can be edited."""
    info = ledger.info(run)
    asked = info.about["options"]
    variants = variants_of(asked["tried"], Namespace(**asked))
    cells = [entry for entry in entries(ledger, run) if entry.kind == "scored"]
    layers, by_fact = scores_of(cells, asked["layers"])
    if not variants or not layers:
        return None
    layer = recommend(layers, np.array(list(by_fact.values())))["layer"]
    tried = [
        Cell("scored", {**_plain(entry.spec), "settings": {**asked["settings"], **variant}})
        for variant in variants
        for entry in cells
        if entry.spec["layer"] == layer
    ]
    about = {"follows": run, "layer": layer, "variants": variants}
    loading = {name: info.about[name] for name in ("loading",) if name in info.about}
    return Plan(run + FOLLOWS, info.model, tuple(tried), info.dtype, info.device, {**about, **loading})


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a cell without those that `complete` filled in."""
    return {name: spec[name] for name in ("request", "method", "layer", "texts")}


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """The card as JSON, its figure and its table; a finished card of enough facts is also put where edits look
    for one."""
    from experiments.studies.parts.plots import card_figure
    from models.cards import cards_folder

    card = card_values(ledger, run)
    title = title_of(card)
    table = pd.DataFrame(layer_rows(card))
    whole = output.Output(title, card_figure(card), table, shown_tables(card), card)
    written = [*output.write(ledger, run, folder, whole), write_record(folder / f"{NAME}.json", card)]
    if card["n"] >= KEPT_FROM and not unfinished(ledger, run):
        cards_folder().mkdir(parents=True, exist_ok=True)
        written.append(write_record(cards_folder() / f"{card['model']['revision'][:16]}.json", card))
    return written


def card_values(ledger: Ledger, run: str) -> dict[str, Any]:
    """The card, as its file has it."""
    from models.cards import SCHEMA

    info = ledger.info(run)
    asked, cells = info.about["options"], list(entries(ledger, run))
    edits = [entry for entry in cells if entry.kind == "scored"]
    layers, by_fact = scores_of(edits, asked["layers"])
    scores = np.array(list(by_fact.values()))
    effects = effects_of([entry for entry in cells if entry.kind == "average" and entry.payload is not None])
    effects["gradient"] = {
        prompt_of(entry.spec["fact"]): entry.result["inner"]
        for entry in cells
        if entry.kind == "gradients" and entry.result is not None
    }
    curves = {name: curve(np.array(list(rows.values()))) for name, rows in effects.items()}
    best = recommend(layers, scores)
    against = best.pop("against_best")
    tried = _tried(ledger, run)
    gains = [one for one in tried if one["gain_interval"][0] > 0]
    best["settings"] = max(gains, key=lambda one: one["gain"])["settings"] if gains else {}
    return {
        "schema": SCHEMA,
        "model": info.about["card"],
        "method": asked["method"],
        "n": len(scores),
        "seed": asked["seed"],
        "source": shown_name(asked["source"]),
        "window": asked["window"],
        "samples": asked["samples"],
        "recommended": best,
        "trace_layer": int(np.mean(list(effects["mlp_out"].values()), axis=0).argmax()),
        "layers": _by_layer(edits, layers, scores, against),
        "tried": tried,
        "effects": curves,
        "correlations": correlations(layers, by_fact, effects),
        "subjects": sorted({entry.spec["request"]["fact"]["subject"] for entry in edits}),
    }


def _by_layer(
    edits: Sequence[Entry], layers: Sequence[int], scores: Array, against: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """One row a layer: the score and its parts, as means over facts."""
    from metrics.statistics import bootstrap

    rows = []
    for place, layer in enumerate(layers):
        results = [entry.result for entry in edits if entry.spec["layer"] == layer and entry.result is not None]
        made = [result for result in results if "refused" not in result]
        parts = {
            name: short(np.mean(means))
            if (means := [np.mean(result[name]) for result in made if result[name]])
            else None
            for name in SHARES
        }
        ratios = [result["perplexity_ratio"] for result in made if result["perplexity_ratio"] is not None]
        low, high = bootstrap(scores[:, place]) or (0.0, 1.0)
        rows.append(
            {
                "layer": layer,
                "score": short(scores[:, place].mean()),
                "interval": [short(low), short(high)],
                **parts,
                "perplexity_ratio": short(np.median(ratios)) if ratios else None,
                "refused": len(results) - len(made),
                "behind_best": [short(end) for end in against[place]],
            }
        )
    return rows


def _tried(ledger: Ledger, run: str) -> list[dict[str, Any]]:
    """Each setting that was tried: its score at the layer, and its paired gain over the defaults."""
    from metrics.statistics import bootstrap, paired_bootstrap

    name = run + FOLLOWS
    if name not in ledger.runs():
        return []
    about = ledger.info(name).about
    plain = _scores_at(entries(ledger, run), about["layer"], None)
    rows = []
    for variant in about["variants"]:
        scores = _scores_at(entries(ledger, name), about["layer"], variant)
        facts = [fact for fact in plain if fact in scores]
        if len(facts) < 2:
            continue
        before, after = (np.array([each[fact] for fact in facts]) for each in (plain, scores))
        rows.append(
            {
                "settings": variant,
                "layer": about["layer"],
                "n": len(facts),
                "score": short(after.mean()),
                "interval": [short(end) for end in bootstrap(after) or (0.0, 1.0)],
                "gain": short((after - before).mean()),
                "gain_interval": [short(end) for end in paired_bootstrap(before, after) or (0.0, 0.0)],
            }
        )
    return rows


def _scores_at(cells: Any, layer: int, variant: Mapping[str, Any] | None) -> dict[str, float]:
    """Fact -> score of its edit at a layer, with a variant's settings."""
    return {
        canonical(entry.spec["request"]["fact"]): score_of(entry.result)
        for entry in cells
        if entry.kind == "scored"
        and entry.result is not None
        and entry.spec["layer"] == layer
        and (variant is None or variant.items() <= entry.spec["settings"].items())
    }
