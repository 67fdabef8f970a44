"""Does a layer card's layer edit better than the layer a trace suggests?  `python -m benchmarks.layer_cards --model M`

Facts of test subjects, which no card is measured on.  Each is edited at the card's layer, at the layer where its own
trace of MLP outputs has the largest effect at the last subject token (one layer at a time, while the page restores
windows), and at the layer by depth.  Scores are those of the card; differences are paired over facts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.workflow import silent_layers
from benchmarks.parts.journal import journaled
from editing import apply_edits, make_edit
from experiments.cells.scored import answered, perplexity_ratio
from experiments.studies.layer_card import TEXTS, prompted
from experiments.studies.parts.card_numbers import SHARES, score_of
from experiments.studies.parts.known import ATLAS, draw_requests
from facts import EditRequest
from facts.atlas import load_atlas
from metrics.statistics import bootstrap, paired_bootstrap
from models import LanguageModel
from models.cards import layer_choice, read_card
from models.options import add_model_options, load_from
from models.published import usual_layer
from tracing import TraceConfig, measure_noise
from tracing.engine.tracer import causal_trace

WAYS = {"card": "the card's layer", "trace": "the layer of the fact's own trace", "depth": "the layer by depth"}
SAMPLES = 10


def measured(
    model: LanguageModel, request: EditRequest, card_layer: int, settings: Mapping[str, Any], level: Any
) -> dict[str, Any]:
    """The layers of the three ways, and the score of the edit at each."""
    silent = silent_layers(model, request.fact)
    config = TraceConfig(site="mlp_out", samples=SAMPLES)
    trace = causal_trace(model, request.fact, config, level=level, positions=["last_subject"])
    suggestion = trace.suggestion(None, silent)
    traced = suggestion.cell.layer if suggestion.cell else usual_layer(model.n_layers)
    layers = {"card": card_layer, "trace": traced, "depth": usual_layer(model.n_layers)}
    scores = {layer: _score(model, request, layer, settings) for layer in set(layers.values())}
    found = {way: {"layer": layer, **scores[layer]} for way, layer in layers.items()}
    return {"stands_out": suggestion.layer is not None, "ways": found}


def _score(model: LanguageModel, request: EditRequest, layer: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        edit = make_edit(model, [request], "r-rome", {**settings, "layer": layer})
    except ValueError as error:
        return {"score": 0.0, "refused": str(error)}
    edited = apply_edits(model, [edit])
    result = {**answered(model, edited, request), "perplexity_ratio": perplexity_ratio(model, edited, TEXTS)}
    return {"score": score_of(result), **result}


def table(model: LanguageModel, lines: Sequence[Mapping[str, Any]]) -> str:
    """One row of Markdown for each way, with its paired difference to the card's."""
    scores = {way: np.array([line["ways"][way]["score"] for line in lines]) for way in WAYS}
    rows = [
        "| Model | edited at | layers | n | score | edit prompt | paraphrases | neighbours | card minus this |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way, words in WAYS.items():
        results = [line["ways"][way] for line in lines]
        layers = sorted({result["layer"] for result in results})
        shown = str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        parts = [_mean([result[name] for result in results if result.get(name)]) for name in SHARES]
        low, high = paired_bootstrap(scores[way], scores["card"]) or (np.nan, np.nan)
        lead = "–" if way == "card" else f"{(scores['card'] - scores[way]).mean():+.2f} ({low:+.2f} to {high:+.2f})"
        ends = bootstrap(scores[way]) or (np.nan, np.nan)
        cells = [
            model.name,
            words,
            shown,
            str(len(lines)),
            f"{scores[way].mean():.2f} ({ends[0]:.2f} to {ends[1]:.2f})",
        ]
        rows.append("| " + " | ".join([*cells, *parts, lead]) + " |")
    out = sum(line["stands_out"] for line in lines)
    return "\n".join([*rows, "", f"Of {len(lines)} traces, {out} have a layer that stands out."])


def _mean(shares: Sequence[Sequence[int]]) -> str:
    """Mean over facts of each one's share; a dash without a fact."""
    return f"{np.mean([np.mean(share) for share in shares]):.2f}" if shares else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 0, or 2 after an error message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layer_cards", description=__doc__.split("\n")[0])
    add_model_options(parser)
    parser.add_argument("--n", type=int, default=25, help="facts of test subjects")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of facts")
    parser.add_argument("--card", type=Path, default=None, help="a layer-card.json (default: the model's own)")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/layer-cards"), help="folder that keeps finished facts")
    parser.add_argument("--json", action="store_true", help="print the facts' numbers as JSON")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        model = load_from(options)
        given = read_card(options.card) if options.card else None
        choice = layer_choice(model.architecture.family, model.n_layers, model.d_model, model.revision, given)
        if choice.card is None:
            raise ValueError(f"there is no layer card for {model.name}; measure one, or give its file with --card")
        card = choice.card
        drawn = draw_requests(model, ATLAS, options.n, options.seed, splits=("test",))
        requests = prompted(model, drawn.items, options.seed, True)
        known = [request.fact.prompt for request in requests if request.fact.subject in card.subjects]
        if known:
            raise ValueError(f"the card was measured on {known[0]!r}; measure it without the test subjects")
        level = measure_noise(model, load_atlas().subjects())
        about = {"model": model.revision, "layer": card.layer, "settings": dict(card.settings), "seed": options.seed}
        lines = journaled(
            options.out / f"{model.name}.jsonl",
            about,
            [f"{request.fact.prompt} {request.target_new}" for request in requests],
            lambda index: measured(model, requests[index], card.layer, card.settings, level),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(lines, indent=1) if options.json else table(model, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
