"""Average causal effects by kind of token: which states carry facts, and through which modules?

Meng et al. 2022, figures 2 and 3 (arXiv:2202.05262): states, MLP and attention outputs, and states with the MLPs or the
attention severed.  Facts that the model does not know are skipped and counted, until it knows `--facts` of them.
Intervals are t-intervals over facts (`tracing.average`), not over noise samples, of which a few are enough.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cells import average as average_cells
from experiments.cells.trace import level_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Cell, Plan
from experiments.studies.parts import output
from experiments.studies.parts.known import add_source, draw_facts
from models.published import Result, results_for

if TYPE_CHECKING:
    from models import LanguageModel
    from tracing import AverageEffects

NAME = "average-effects"
HELP = "which states carry facts, averaged over many of them by kind of token"
PAPER_WINDOW = 10 / 48
"""Of all layers, in one window of MLPs or attentions: 10 of GPT-2 XL's 48."""


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_source(parser, 1000)
    parser.add_argument("--samples", type=int, default=3, help="noise draws a fact (the paper: 10)")
    parser.add_argument("--window", type=int, default=None, help="layers of MLPs restored together (default: a fifth)")
    parser.add_argument("--noise", type=float, default=3.0, help="x std of the subjects' embeddings")
    parser.add_argument("--block", type=int, default=8, help="facts in one cell of the run")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every few facts, each with all maps."""
    from tracing import measure_noise

    if options.block < 1:
        raise ValueError(f"the block is {options.block} facts; expected at least 1")
    drawn = draw_facts(model, options.source, options.facts, options.seed)
    window = options.window or max(1, int(PAPER_WINDOW * model.n_layers + 0.5))
    level = level_of(measure_noise(model, [fact.subject for fact in drawn.items]))
    facts = [asdict(fact) for fact in drawn.items]
    starts = range(0, len(facts), options.block)
    cells = []
    for number, start in enumerate(starts):
        # other noise for each cell: noise shared by all facts would shift their mean without widening the interval
        shared = {"samples": options.samples, "noise": options.noise, "seed": options.seed * len(starts) + number}
        spec = {"facts": facts[start : start + options.block], "configs": maps_of(window, shared), "level": level}
        cells.append(Cell("average", spec))
    settings = {name: getattr(options, name) for name in ("facts", "samples", "noise", "seed", "source")}
    size = [model.architecture.family, model.n_layers, model.d_model]
    about = {"options": {**settings, "window": window}, "size": size, **drawn.about}
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def maps_of(window: int, shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """States, modules in a window, and states with one kind of module severed."""
    return [
        {"site": "resid_post", **shared},
        {"site": "mlp_out", "window": window, **shared},
        {"site": "attn_out", "window": window, **shared},
        {"site": "resid_post", "severed": "mlp_out", **shared},
        {"site": "resid_post", "severed": "attn_out", **shared},
    ]


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Maps and curves with their intervals; every cell of every map as a table."""
    from experiments.studies.parts.plots import average_figure

    finished = [entry for entry in entries(ledger, run) if entry.payload is not None]
    average = average_of(finished, ledger.info(run).about["unknown"])
    window = ledger.info(run).about["options"]["window"]
    numbers = {**_main_numbers(average), "work": work_of(finished)}
    size = ledger.info(run).about.get("size")  # runs planned earlier have none
    published = beside_published(average, results_for((size[0], size[1], size[2]), "traces") if size else ())
    written = output.write(
        ledger,
        run,
        folder,
        output.Output(
            title=_title(average),
            figure=average_figure(average, window),
            table=average.to_frame(),
            shown=f"{published}\n{peaks_table(average)}",
            found=numbers,
        ),
    )
    average.save(folder / f"{NAME}.npz")
    return [*written, folder / f"{NAME}.npz"]


def average_of(finished: Sequence[Entry], unknown: Sequence[str]) -> AverageEffects:
    """The average over all finished cells of a run.

    Raises:
        ValueError: if no cell is finished.
    """
    configs = average_cells.configs_of(finished[0].spec) if finished else ()
    return average_cells.merged([entry.result or {} for entry in finished], configs, unknown=unknown)


def work_of(finished: Sequence[Entry]) -> dict[str, Any]:
    """The work done: restored states (token x layer x map), seconds of the workers and of the clock.

    The clock counts from the start of the first cell to the end of the last, pauses included.
    """
    states = sum((entry.result or {})["states"] for entry in finished)
    seconds = [entry.notes["seconds"] for entry in finished]
    began = min(entry.finished - spent for entry, spent in zip(finished, seconds, strict=True))
    wall = max(entry.finished for entry in finished) - began
    return {
        "states": states,
        "worker_seconds": round(sum(seconds), 3),
        "cpu_seconds": round(sum(entry.notes["cpu_seconds"] for entry in finished), 3),
        "wall_seconds": round(wall, 3),
        "states_per_second": round(states / wall, 3) if wall else None,
    }


def peaks_table(average: AverageEffects) -> str:
    """The largest mean of each kind of token, with its interval, as a Markdown table."""
    from tracing.plots.labels import CATEGORY_NAMES, map_title

    rows = []
    for name in average.effects:
        for category, words in CATEGORY_NAMES.items():
            n = average.n(name, category)
            if not n:
                continue
            layer = int(average.mean(name, category).argmax())
            low, high = average.ci(name, category)
            effect = output.between(average.mean(name, category)[layer], low[layer], high[layer])
            here = average.peaks(name, category)[layer]
            rows.append((map_title(name), words, n, layer, effect, f"{100 * here / n:.0f} %"))
    headers = ("Restored", "Token", "n", "Best layer", "AIE there (95 % interval)", "Facts with their own peak there")
    return output.markdown(headers, rows)


def beside_published(average: AverageEffects, published: Sequence[Result]) -> str:
    """Main numbers with their intervals, and what was published for models of this size beside them, as Markdown."""
    theirs = {result.name: result for result in published}
    main = _main_numbers(average)
    asked = average.n_facts + average.n_unknown
    ours: dict[str, tuple[str, str, int]] = {
        "known": ("facts known, of those asked", f"{average.n_facts / asked:.3f}", asked),
        "clean": ("p(answer), clean", f"{main['clean']:.3f}", average.n_facts),
        "corrupted": ("p(answer), corrupted", f"{main['corrupted']:.3f}", average.n_facts),
        "ate": ("average total effect", output.between(main["ate"], *main["ate_ci"]), average.n_facts),
    }
    for name in theirs:
        site, _, layer = name.partition(" ")
        if layer and site in average.effects:
            at = int(layer)
            low, high = average.ci(site, "last_subject")
            effect = output.between(average.mean(site, "last_subject")[at], low[at], high[at])
            ours[name] = (f"{site}, layer {layer}, last subject token", effect, average.n(site, "last_subject"))
    rows = []
    for name, (words, value, n) in ours.items():
        result = theirs.get(name)
        rows.append((words, f"{result.value:.3f}" if result else "–", value, n, result.source if result else "–"))
    return output.markdown(("Quantity", "published", "ours (95 % interval)", "n", "published by"), rows)


def _main_numbers(average: AverageEffects) -> dict[str, Any]:
    low, high = average.ate_ci() if average.n_facts > 1 else (None, None)
    return {
        "n": average.n_facts,
        "n_unknown": average.n_unknown,
        "noise_std": average.noise_std,
        "clean": float(average.clean.mean()),
        "corrupted": float(average.corrupted.mean()),
        "ate": average.ate,
        "ate_ci": [low, high],
    }


def _title(average: AverageEffects) -> str:
    main = _main_numbers(average)
    effect = output.between(main["ate"], *main["ate_ci"])
    return (
        f"{average.n_facts} facts it knows, {average.n_unknown} passed over; p(answer) "
        f"{main['clean']:.3f} clean and {main['corrupted']:.3f} corrupted, average total effect {effect}"
    )
