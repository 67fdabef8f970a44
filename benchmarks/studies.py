"""`python -m benchmarks.studies [--facts 16] [--samples 3] [--json]`: averages over facts against one forward a state.

The study `average-effects` traces real facts in five ways (states, MLPs, attention, states with either severed).  It is
compared with a loop of one forward of 1 + samples rows for each restored state, as in ROME's code
(`benchmarks.tracing.contenders`; for severed maps that code runs two, counted as one here).  Both take turns within a
round, on one thread, and are timed by its processor time, so that a busy machine slows both alike.  The loop is timed
on a few random states of every prompt and scaled to all.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.tracing.cases import seconds
from benchmarks.tracing.contenders import RomeLoop, Task
from experiments.studies.average_effects import maps_of
from experiments.studies.parts.known import ATLAS, draw_facts
from facts import Fact
from models import LanguageModel
from models.options import add_model_options, load_from
from tracing import NoiseLevel, TraceConfig, average_effects, measure_noise
from tracing.corruption import draw_noise
from tracing.engine.question import ask


def measure(
    model: LanguageModel, facts: Sequence[Fact], samples: int, window: int, rounds: int, states: int
) -> dict[str, Any]:
    """Seconds for every state of every fact's five maps, by the study's own call and by the loop; medians of rounds.

    Args:
        states: of each prompt, that the loop is timed on in a round.
    """
    level = measure_noise(model, [fact.subject for fact in facts])
    configs = [TraceConfig(**values) for values in maps_of(window, {"samples": samples})]
    tasks = [_task(model, fact, samples, level) for fact in facts]
    source = random.Random("states")
    spent: dict[str, list[float]] = {"study": [], "loop": []}
    device = model.device.type
    average_effects(model, facts[:1], configs, level=level)  # the engine's probe runs once for each model
    for _ in range(rounds):
        spent["study"].append(seconds(lambda: average_effects(model, facts, configs, level=level), device))
        whole = 0.0
        for task in tasks:
            drawn = [(source.randrange(len(task.ids)), source.randrange(model.n_layers)) for _ in range(states)]
            loop = RomeLoop(task)
            each = seconds(lambda loop=loop, drawn=drawn: [loop.cell(*one) for one in drawn], device) / states
            whole += each * (len(configs) * len(task.ids) * model.n_layers + 2)
        spent["loop"].append(whole)
    total = sum(len(configs) * len(task.ids) * model.n_layers for task in tasks)
    study, loop = statistics.median(spent["study"]), statistics.median(spent["loop"])
    ratios = [slow / fast for slow, fast in zip(spent["loop"], spent["study"], strict=True)]
    return {
        "model": model.name,
        "facts": len(facts),
        "samples": samples,
        "window": window,
        "rounds": rounds,
        "states": total,
        "study_seconds": study,
        "loop_seconds": loop,
        "study_states_per_second": total / study,
        "loop_states_per_second": total / loop,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def _task(model: LanguageModel, fact: Fact, samples: int, level: NoiseLevel) -> Task:
    question = ask(model, fact)
    noise = 3 * level.sigma * draw_noise(samples, len(question.subject), model.d_model, seed=0)
    ids = question.ids[: question.n_prompt]
    return Task(model, ids, question.subject, noise, TraceConfig(samples=samples), question.answer_ids[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__.partition("\n")[0])
    add_model_options(parser)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--window", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--states", type=int, default=4, help="of each prompt, that the loop is timed on in a round")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of sentences")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_from(options)
    facts = draw_facts(model, ATLAS, options.facts, 0).items
    lines = [
        measure(model, facts, samples, options.window, options.rounds, options.states) for samples in options.samples
    ]
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    for line in lines:
        low, high = line["ratio_range"]
        print(
            f"{line['facts']} facts, {line['samples']} samples: {line['study_states_per_second']:.0f} restored states "
            f"a second of one core, {line['ratio']:.1f} (rounds: {low:.1f} to {high:.1f}) times the "
            f"{line['loop_states_per_second']:.0f} of one forward a state"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
