"""`python -m benchmarks.search --models NAME ...`: time of ROME's search for a value, beside its matrix products alone.

The search of one edit with R-ROME's contexts, always the same number of steps: reading the unedited model, then the
steps.  The floor of a step is the time of its matrix products and nothing else, one after the other on this machine:
the head at the places whose losses are read and the matrices of the blocks above the layer at the tokens that change,
each once forward and once back.  Processor time, one thread; the search and its floor take turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from time import process_time

import torch

from editing.methods.rome import RRomeConfig
from editing.parts.contexts import make_contexts
from editing.parts.keys import Batch, make_batch
from editing.parts.values import optimise_value, read_start
from facts import Fact
from facts.watch import Watch
from models import LanguageModel, load_model

FACT = Fact("Space Needle", "The {} is located in the city of", "Seattle")
ANSWER = "Rome"


@dataclass(frozen=True)
class Search:
    """Medians over rounds, in processor seconds."""

    model: str
    layer: int
    steps: int
    places: int
    """Where losses are read."""
    tokens: int
    """Of all rows, from the changed one to the last place that is read."""
    whole: float
    start: float
    """Reading the unedited model."""
    step: float
    head_floor: float
    blocks_floor: float

    @property
    def times_floor(self) -> float:
        """A step over its matrix products."""
        return self.step / (self.head_floor + self.blocks_floor)


def measure(model: LanguageModel, name: str, layer: int, steps: int, rounds: int) -> Search:
    """Time the search and its floor in turns."""
    config = RRomeConfig(layer=layer, steps=steps, stop_loss=0.0)
    batch = make_batch(model, FACT, ANSWER, make_contexts(model, config.prefixes, config.seed), config.fact_token)
    tokens = sum(len(row.ids) - row.lookup - (row.n_prompt < len(row.ids)) for row in batch.rows)
    places = 1 + sum(len(row.ids) - row.n_prompt for row in batch.rows)
    head = [model.submodules[model.architecture.head].weight]
    blocks = [model.submodules[model.architecture.block(above)] for above in range(layer + 1, model.n_layers)]
    matrices = [weight for block in blocks for weight in block.parameters() if weight.ndim == 2]
    timings: list[tuple[float, ...]] = []
    for _ in range(rounds):
        times = _search(model, batch, config)
        timings.append((*times, _products(head, places), _products(matrices, tokens)))  # type: ignore[arg-type]
    return Search(name, layer, steps, places, tokens, *(median(column) for column in zip(*timings, strict=True)))


def _search(model: LanguageModel, batch: Batch, config: RRomeConfig) -> tuple[float, float, float]:
    """Seconds of the whole search, of reading the unedited model and of the middle step."""
    marks = [process_time()]
    start = read_start(model, config.layer, batch, config.compat)
    marks.append(process_time())
    watch = Watch(lambda *_: marks.append(process_time()))
    optimise_value(model, config.layer, batch, start, config.value_settings, watch=watch)
    each = [behind - before for before, behind in pairwise(marks)]
    return marks[-1] - marks[0], each[0], median(each[1:-1])  # the last step goes forward only


@torch.no_grad()
def _products(weights: list[torch.Tensor], rows: int) -> float:
    """Seconds of so many rows through all weights, forward and back."""
    inputs = {size: torch.randn(rows, size) for weight in weights for size in weight.shape}
    began = process_time()
    for weight in weights:
        inputs[weight.shape[1]] @ weight.T
    for weight in reversed(weights):
        inputs[weight.shape[0]] @ weight
    return process_time() - began


def table(searches: list[Search]) -> str:
    """A row for each model, in Markdown."""
    rows = [
        "| model | layer | places | tokens | search, s | start, s | step, s | head, s | blocks, s | step × floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in searches:
        seconds = [each.whole, each.start, each.step, each.head_floor, each.blocks_floor, each.times_floor]
        cells = " | ".join(f"{value:.3g}" for value in seconds)
        rows.append(f"| {each.model} | {each.layer} | {each.places} | {each.tokens} | {cells} |")
    return "\n".join(rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["reference"], help="a name, a folder or a .gguf file each")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    searches = [
        measure(load_model(name, dtype="float32", device="cpu"), name, options.layer, options.steps, options.rounds)
        for name in options.models
    ]
    if options.json:
        print(json.dumps([asdict(each) for each in searches], indent=1))
    else:
        print(f"{platform.machine()}, torch {torch.__version__}, float32, {options.steps} steps")
        print(table(searches))
    return 0


if __name__ == "__main__":
    sys.exit(main())
