"""How far does a trace depend on what was done to the subject?  Noise levels, and kinds of corruption.

Gaussian noise of several multiples of the embeddings' spread; uniform noise (Meng et al. 2022, appendix B.4); another
subject of as many tokens in the subject's place (symmetric token replacement: Zhang & Nanda 2023, arXiv:2309.16042);
the mean embedding.  The same facts are traced in every way; facts for which no other subject aligns are skipped and
counted.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.cells import average as average_cells
from experiments.cells.trace import level_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan
from experiments.studies.parts import output
from experiments.studies.parts.known import ATLAS, draw_facts

if TYPE_CHECKING:
    from models import LanguageModel
    from tracing import AverageEffects

NAME = "noise"
HELP = "how far traces depend on the noise's level and kind"
USUAL = "Gaussian, 3 x"
"""The paper's noise level, with which the others are compared."""
TOKEN = "another subject"
LEVELS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    parser.add_argument("--facts", type=int, default=50, help="facts of the atlas that the model knows")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of facts and of the noise")
    parser.add_argument(
        "--levels", type=float, nargs="+", default=[0.5, 1, 2, 3, 5, 10], help="of Gaussian noise, x std"
    )
    parser.add_argument("--samples", type=int, default=3, help="noise draws a fact")
    parser.add_argument("--block", type=int, default=10, help="facts in one cell of the run")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every few facts in every way."""
    from tracing import measure_noise, suggest_counterfactuals

    if options.block < 1:
        raise ValueError(f"the block is {options.block} facts; expected at least 1")
    drawn = draw_facts(model, ATLAS, options.facts, options.seed)
    others = [next(iter(suggest_counterfactuals(model, fact, limit=1)), None) for fact in drawn.items]
    pairs = [(asdict(fact), other.subject) for fact, other in zip(drawn.items, others, strict=True) if other]
    if not pairs:
        raise ValueError(f"no other subject aligns with any of the {options.facts} facts; ask for more facts")
    level = level_of(measure_noise(model, [fact.subject for fact in drawn.items]), with_tokens=True)
    cells = []
    starts = range(0, len(pairs), options.block)
    ways = ways_of(options.levels)
    for way, config in ways.items():
        for number, start in enumerate(starts):
            block = pairs[start : start + options.block]
            seed = options.seed * len(starts) + number  # the same noise in all ways, other noise for every block
            spec: dict[str, Any] = {
                "facts": [fact for fact, _ in block],
                "configs": [{"samples": options.samples, "seed": seed, **config}],
                "level": level,
                "positions": ["last_subject", "last_token"],
            }
            if way == TOKEN:
                spec["counterfactuals"] = [other for _, other in block]
            cells.append(Cell("average", spec))
    settings = {name: getattr(options, name) for name in ("facts", "seed", "samples")}
    unaligned = [fact.prompt for fact, other in zip(drawn.items, others, strict=True) if other is None]
    about = {
        "options": {**settings, "levels": list(options.levels)},
        "ways": list(ways),
        "blocks": len(starts),
        "unaligned": unaligned,
        **drawn.about,
    }
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def ways_of(levels: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Name -> what differs from the usual config.

    Raises:
        ValueError: if no level is the usual one.
    """
    if 3 not in levels:
        raise ValueError(f"the levels are {list(levels)}; put 3 among them, which the others are compared with")
    ways: dict[str, dict[str, Any]] = {f"Gaussian, {level:g} x": {"noise": level} for level in sorted(set(levels))}
    ways["uniform, 3 x"] = {"corruption": "uniform", "noise": 3.0}
    ways[TOKEN] = {}  # the cell names each fact's own counterfactual
    ways["mean embedding"] = {"corruption": "mean"}
    return ways


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Total effect and the curves over layers, in every way."""
    from experiments.studies.parts.plots import noise_figure

    info = ledger.info(run)
    averages = averages_of(ledger, run)
    if USUAL not in averages:
        raise ValueError(f"nothing of {USUAL!r} is finished, which the others are compared with; resume the run")
    table = compared(averages)
    n = averages[USUAL].n_facts
    title = (
        f"{n} facts it knows traced in {len(averages)} ways; {len(info.about['unknown'])} it does not "
        f"know and {len(info.about['unaligned'])} without an aligned subject passed over"
    )
    numbers = {"n": n, "ways": table.astype(object).where(table.notna(), None).to_dict("records")}
    figure = noise_figure(averages, table)
    return output.write(ledger, run, folder, output.Output(title, figure, table, _shown(table), numbers))


def averages_of(ledger: Ledger, run: str) -> dict[str, AverageEffects]:
    """Way -> the average of its finished cells; ways without one are left out."""
    about = ledger.info(run).about
    blocks: dict[str, list[Any]] = {}
    for entry in entries(ledger, run):
        if entry.payload is not None:
            blocks.setdefault(about["ways"][entry.position // about["blocks"]], []).append(entry)
    return {
        way: average_cells.merged(
            [entry.result for entry in cells],
            average_cells.configs_of(cells[0].spec),
            unknown=about["unknown"],
        )
        for way, cells in blocks.items()
    }


def compared(averages: Mapping[str, AverageEffects]) -> pd.DataFrame:
    """One row a way: total effect, the peak at the last subject token, and how similar it is to the usual map.

    `same_shape` is the correlation of the mean curve over layers with the usual curve, `same_peak` the share of facts
    whose peak lies within one layer of their usual peak.
    """
    usual = averages[USUAL]
    rows = []
    for way, average in averages.items():
        low, high = average.ate_ci() if average.n_facts > 1 else (np.nan, np.nan)
        curve = average.last_subject()
        layer = int(curve.argmax())
        bottom, top = average.ci("resid_post", "last_subject")
        rows.append(
            {
                "way": way,
                "n": average.n_facts,
                "ate": average.ate,
                "ate_low": low,
                "ate_high": high,
                "corrupted": float(average.corrupted.mean()),
                "peak_layer": layer,
                "peak": curve[layer],
                "peak_low": bottom[layer],
                "peak_high": top[layer],
                "last_token_peak_layer": int(average.last_token().argmax()),
                "same_shape": _correlation(curve, usual.last_subject()),
                "same_peak": _same_peaks(average, usual),
            }
        )
    return pd.DataFrame(rows)


def _correlation(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Pearson's correlation; NaN where one curve does not vary."""
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) > 0 and np.ptp(second) > 0 else float("nan")


def _same_peaks(average: AverageEffects, usual: AverageEffects) -> float:
    """Share of common facts whose peaks lie within one layer of each other."""
    places = {prompt: index for index, prompt in enumerate(usual.prompts)}
    shared = [(index, places[prompt]) for index, prompt in enumerate(average.prompts) if prompt in places]
    if not shared:
        return float("nan")
    mine = average.values("resid_post", "last_subject").argmax(1)
    theirs = usual.values("resid_post", "last_subject").argmax(1)
    return float(np.mean([abs(int(mine[a]) - int(theirs[b])) <= 1 for a, b in shared]))


def _shown(table: pd.DataFrame) -> str:
    headers = (
        "Corruption",
        "n",
        "p(answer) corrupted",
        "average total effect (95 % interval)",
        "best layer, last subject token",
        "AIE there",
        "correlation of the curve with 3 x",
        "facts that peak within a layer of 3 x",
    )
    rows = [
        (
            row["way"],
            row["n"],
            f"{row['corrupted']:.3f}",
            output.between(row["ate"], row["ate_low"], row["ate_high"]),
            row["peak_layer"],
            output.between(row["peak"], row["peak_low"], row["peak_high"]),
            output.between(row["same_shape"], None, None, 2),
            f"{100 * row['same_peak']:.0f} %",
        )
        for row in table.to_dict("records")
    ]
    return output.markdown(headers, rows)
