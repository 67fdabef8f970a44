"""`python -m benchmarks.tracing.threads [--runs 500]`: two threads trace one model while a third generates with it.

Counts runs that raise and runs whose numbers differ from those of the fact alone; both must be 0.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch

from facts.atlas import load_atlas
from models import LanguageModel, load_model
from tracing import TraceConfig, causal_trace, measure_noise
from tracing.sites import SITES

FACTS = 8
TRACERS = 2
NEW_TOKENS = 4
SAME = 1e-6
"""Largest difference of probabilities: the same passes give the same numbers."""


def works(model: LanguageModel) -> list[tuple[Callable[[], object], Callable[[object, object], bool]]]:
    """(what to run, whether two of its results are the same): traces of every site, then a generation."""
    atlas = load_atlas()
    level = measure_noise(model, atlas.subjects())
    step = len(atlas.facts) // FACTS
    facts = [atlas.as_fact(entry) for entry in atlas.facts[::step][:FACTS]]

    def trace(number: int) -> Callable[[], object]:
        config = TraceConfig(site=SITES[number % len(SITES)], samples=1)
        where = ("last_subject", "last_token")
        return lambda: causal_trace(model, facts[number], config, level=level, positions=where).restored

    def close(first: object, second: object) -> bool:
        return bool(np.allclose(np.asarray(first), np.asarray(second), atol=SAME, rtol=0, equal_nan=True))

    traces = [(trace(number), close) for number in range(len(facts))]
    prompts = [fact.prompt for fact in facts]
    return [*traces, (lambda: model.generate(prompts, NEW_TOKENS), lambda one, other: one == other)]


def crowd(model: LanguageModel, runs: int) -> tuple[list[str], int]:
    """(errors, wrong results) of the runs, a third of them generations."""
    *traces, generation = works(model)
    alone = [work() for work, _ in traces]
    said = generation[0]()
    ticket, errors, wrong = count(), list[str](), list[int]()

    def worker(
        jobs: Sequence[tuple[Callable[[], object], Callable[[object, object], bool]]], known: Sequence[object]
    ) -> None:
        while (number := next(ticket)) < runs:
            work, same = jobs[number % len(jobs)]
            try:
                if not same(work(), known[number % len(jobs)]):
                    wrong.append(number)
            except Exception as error:  # any error counts
                errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=worker, args=(traces, alone)) for _ in range(TRACERS)]
    threads.append(threading.Thread(target=worker, args=([generation], [said])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors, len(wrong)


def main() -> int:
    """Run them and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing.threads", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    errors, wrong = crowd(load_model("reference"), options.runs)
    print(f"{options.runs} runs by {TRACERS} tracing threads and one that generates: ", end="")
    print(f"{len(errors)} errors, {wrong} wrong")
    print(*sorted(set(errors)), sep="\n", end="")
    return int(bool(errors or wrong))


if __name__ == "__main__":
    sys.exit(main())
