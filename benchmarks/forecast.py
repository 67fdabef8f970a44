"""How well does a forecast from keys rank what an edit breaks?  `python -m benchmarks.forecast --model smollm2-135m`

For edits of test subjects by R-ROME: Spearman's rank correlation, over facts of the atlas, of what is foretold before
the edit (`editing.forecast`) with the divergence of the next token that is measured after it; beside two simple
baselines: whether a prompt is of the edited relation, and how many words it shares with the edited prompt.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.parts.held_out import held_out_requests
from benchmarks.parts.journal import journaled
from editing import make_edit
from editing.forecast import Forecaster
from editing.parts.suggest import suggest_layer
from facts import EditRequest, Fact
from facts.atlas import load_atlas
from metrics.statistics import bootstrap
from models import LanguageModel
from models.options import add_model_options, load_from

METHOD = "r-rome"
FIRST = 10
"""Prompts foretold first, which the page shows."""
RANKINGS = {"keys": "keys", "relation": "same relation", "words": "shared words"}


def drawn_facts(n: int, seed: int) -> list[Fact]:
    """`n` facts of the atlas, in their relation's first words."""
    atlas = load_atlas()
    rows = list(atlas.facts)
    random.Random(f"forecast|{seed}").shuffle(rows)
    return [atlas.as_fact(row) for row in rows[:n]]


def measured(forecaster: Forecaster, request: EditRequest, facts: Sequence[Fact], layer: int) -> dict[str, Any]:
    """One edit: Spearman's rho of each ranking, and of the ten foretold first how far they moved and how many of the
    ten that moved most are among them.  Facts about the edited subject are left out."""
    edit = make_edit(forecaster.model, [request], METHOD, {"layer": layer})
    others = {fact.prompt: fact for fact in facts if fact.subject != request.fact.subject}
    foretold = {row.prompt: row.foretold for row in forecaster.foretell(edit) if row.prompt in others}
    prompts = list(foretold)  # ranked
    damage = forecaster.measure(edit, prompts)
    moved = np.array([damage[prompt] for prompt in prompts])
    rankings = {
        "keys": [foretold[prompt] for prompt in prompts],
        "relation": [float(others[prompt].relation == request.fact.relation) for prompt in prompts],
        "words": [shared_words(prompt, request.fact.prompt) for prompt in prompts],
    }
    rho = {name: float(spearmanr(values, moved).statistic) for name, values in rankings.items()}
    worst = set(np.argsort(-moved, kind="stable")[:FIRST].tolist())
    return {
        "n": len(prompts),
        "rho": rho,
        "lift": float(moved[:FIRST].mean() / moved.mean()),
        "hits": len(worst & set(range(FIRST))),
    }


def shared_words(first: str, second: str) -> float:
    """Jaccard index of the two texts' words."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) / len(one | other)


def table(model: LanguageModel, layer: int, lines: Sequence[Mapping[str, Any]]) -> str:
    """One row of Markdown for the model: means over edits with 95 % bootstrap intervals."""
    cells = [_mean([line["rho"][name] for line in lines], 2) for name in RANKINGS]
    lead = [line["rho"]["keys"] - max(line["rho"][name] for name in ("relation", "words")) for line in lines]
    cells.append(_mean(lead, 2))
    cells.append(_mean([line["lift"] for line in lines], 1))
    cells.append(_mean([line["hits"] for line in lines], 1))
    head = ["Model", "layer", "edits", "prompts", *(f"rho, {words}" for words in RANKINGS.values())]
    head += ["keys over the better baseline", f"first {FIRST}: moved x the mean", f"of the {FIRST} moved most"]
    row = [model.name, str(layer), str(len(lines)), str(min(line["n"] for line in lines)), *cells]
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1), "| " + " | ".join(row) + " |"]
    )


def _mean(values: Sequence[float], digits: int) -> str:
    low, high = bootstrap(values) or (float("nan"),) * 2
    return f"{np.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 0, or 2 after an error message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__.split("\n")[0])
    add_model_options(parser)
    parser.add_argument("--n", type=int, default=20, help="edits")
    parser.add_argument("--prompts", type=int, default=520, help="facts of the atlas that are ranked")
    parser.add_argument("--layer", type=int, default=None, help="to edit at (default: the card's, or the usual one)")
    parser.add_argument("--seed", type=int, default=0, help="of the edits and the facts")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/forecast"), help="folder that keeps finished edits")
    parser.add_argument("--json", action="store_true", help="print the edits' numbers as JSON")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        model = load_from(options)
        layer = suggest_layer(model) if options.layer is None else options.layer
        requests = held_out_requests(model, load_atlas(), options.n, options.seed)
        facts = drawn_facts(options.prompts, options.seed)
        forecaster = Forecaster(model, [fact.prompt for fact in facts])
        about = {"model": model.revision, "layer": layer, "prompts": options.prompts, "seed": options.seed}
        lines = journaled(
            options.out / f"{model.name}.jsonl",
            about,
            [f"{request.fact.prompt} {request.target_new}" for request in requests],
            lambda index: measured(forecaster, requests[index], facts, layer),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(lines, indent=1) if options.json else table(model, layer, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
