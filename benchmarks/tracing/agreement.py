"""`python -m benchmarks.tracing.agreement --models NAME ...`: packed sweeps against whole forwards on the same prompts.

Each prompt is traced twice with the same noise: by packed sweeps and by replay (`tracing.engine.replay`), one whole
forward for every restored run.  The answer is the model's own next token, so that its probability is not lost in
rounding.  Probabilities of the two maps that differ by more than 1e-5 are counted; there must be none.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from benchmarks.tracing.cases import KINDS, kind_config, spread_facts
from facts import Fact
from models import LanguageModel, load_model
from models.forwards.hooks import run_hooked
from tracing import causal_trace, measure_noise
from tracing.engine.probe import engine_for

ALLOWED = 1e-5
"""Largest difference of probabilities that counts as equal."""


@dataclass(frozen=True)
class Agreement:
    """Two maps of one prompt."""

    model: str
    kind: str
    prompt: str
    cells: int
    """Restored runs compared."""
    largest_effect: float
    """In the map, so that agreement of flat maps can be told apart."""
    largest_difference: float
    over_allowed: int
    """Probabilities that differ by more than 1e-5."""


def agreements(
    model: LanguageModel, name: str, facts: list[Fact], kinds: list[str], samples: int
) -> Iterator[Agreement]:
    """Both maps of every fact and kind, compared.

    Raises:
        ValueError: if packed sweeps are not used for this model, so that there is nothing to compare.
    """
    if engine_for(model, run_hooked) != "packed":
        raise ValueError(f"{name} is always replayed, so there are no packed sweeps to compare")
    level = measure_noise(model, [fact.subject for fact in facts])
    for fact in facts:
        for kind in kinds:
            config = kind_config(kind, model, samples)
            packed, replayed = (
                causal_trace(model, fact, config, level=level, engine=engine) for engine in ("packed", "replay")
            )
            difference = np.abs(packed.restored.astype(np.float64) - replayed.restored)
            yield Agreement(
                name,
                kind,
                fact.prompt,
                difference.size,
                float(np.abs(packed.indirect_effect).max()),
                float(difference.max()),
                int((difference > ALLOWED).sum()),
            )


def table(agreements: list[Agreement]) -> str:
    """One row for each model and kind, in Markdown."""
    rows = [
        "| model | kind | prompts | cells | largest effect | largest difference | over 1e-5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, kind in dict.fromkeys((each.model, each.kind) for each in agreements):
        own = [each for each in agreements if (each.model, each.kind) == (model, kind)]
        effect, difference = (
            max(getattr(each, name) for each in own) for name in ("largest_effect", "largest_difference")
        )
        cells, over = (sum(getattr(each, name) for each in own) for name in ("cells", "over_allowed"))
        rows.append(f"| {model} | {kind} | {len(own)} | {cells} | {effect:.3f} | {difference:.1e} | {over} |")
    return "\n".join(rows)


def main() -> int:
    """Compare and print; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing.agreement", description=__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="a name, a folder or a .gguf file each")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", default=["states"], choices=list(KINDS))
    parser.add_argument("--samples", type=int, default=1, help="noise draws of each prompt")
    parser.add_argument("--json", action="store_true", help="print every prompt as JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="of torch's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines: list[Agreement] = []
    for name in options.models:
        model = load_model(name, dtype="float32", device="cpu")
        facts = [replace(fact, target_true="") for fact in spread_facts(options.prompts)]
        for each in agreements(model, name, facts, options.kinds, options.samples):
            lines.append(each)
            print(f"{name}, {each.kind}, {each.prompt!r}: {each.largest_difference:.1e}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(each) for each in lines], indent=1))
    else:
        print(f"{platform.machine()}, torch {torch.__version__}, float32, {options.samples} samples")
        print(table(lines))
    return int(any(each.over_allowed for each in lines))


if __name__ == "__main__":
    sys.exit(main())
