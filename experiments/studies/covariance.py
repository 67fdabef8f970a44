"""How many tokens does the second moment of the keys need?  Its distance to the largest sample, and edit success.

C = E[k k^T] is part of every closed-form edit (Meng et al. 2022, section 3.1, arXiv:2202.05262).  Two relative
distances (Frobenius norm) show how far C_n, estimated from n tokens, has converged: to C_N from the most tokens, which
include the n, so that it is 0 at n = N; and to a C_n from n other tokens, which shows the sampling error.  Beside them
stands the success of the same edits made with each C_n.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.cells.rewrite import SCORES, layer_for, scores_of, trimmed
from experiments.kinds import Context, kind
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from experiments.plan import Cell, Plan, Spec
from experiments.studies.parts import output
from experiments.studies.parts.known import add_source, draw_requests
from facts.records import request_record

if TYPE_CHECKING:
    import torch

    from models import LanguageModel

NAME = "covariance"
HELP = "how many tokens the second moment of the keys needs"
TOKENS = (500, 1000, 2000, 5000, 10000, 20000, 50000)
_OTHER_STREAM = 11
"""Seed of the second sample; edits use 0, perplexity 7."""
_TOKENS_A_TEXT = 8
"""Every document of the bundled corpus has at least this many tokens."""


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """Bytes of three moments in float64."""
    return 3 * 8 * model.d_mlp**2


@kind("moment", version=1, group=lambda spec: f"layer {spec['layer']}", estimate_bytes=least_bytes)
def moment(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Estimate C from `tokens` tokens of the bundled corpus at `layer`, and compare it with that from `most`."""
    from editing.parts.moments import condition_number, estimate
    from models.reference.corpus import sample_texts

    layer, tokens, most = spec["layer"], spec["tokens"], spec["most"]

    def sampled(count: int, seed: int) -> torch.Tensor:
        texts = sample_texts(max(1, count // _TOKENS_A_TEXT), seed)
        moments = estimate(model, [layer], texts, count, watch=context.watch)
        return moments[layer].matrix.double()

    largest = context.memo("largest", lambda: sampled(most, 0))
    mine = sampled(tokens, 0) if tokens < most else largest
    condition = condition_number(mine)
    return {
        "distance": distance(mine, largest),
        "between_streams": distance(mine, sampled(tokens, _OTHER_STREAM)),
        "condition_number": condition if condition < float("inf") else None,
    }


def distance(moment: torch.Tensor, reference: torch.Tensor) -> float:
    """|moment - reference| / |reference|, in the Frobenius norm."""
    return float((moment - reference).norm() / reference.norm())


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_source(parser, 10, "facts to edit with each sample")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="sample sizes")
    parser.add_argument("--method", default="r-rome", help="an editing method that uses the second moment")
    parser.add_argument("--layer", type=int, default=1, help="whose keys are sampled, and where r-rome and rome edit")
    parser.add_argument("--probes", type=int, default=2, help="paraphrases and neighbours of an edit")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every sample size, and one for every edit with it."""
    from editing import get_method
    from editing.requests import check_layer

    if "statistics" not in get_method(options.method).needs:
        raise ValueError(f"{options.method} uses no second moment; choose rome, r-rome, memit, emmet or alphaedit")
    check_layer(model, options.layer)
    sizes = sorted(set(options.tokens))
    drawn = draw_requests(model, options.source, options.facts, options.seed)
    layer = layer_for(options.method, options.layer)
    cells = [Cell("moment", {"layer": options.layer, "tokens": size, "most": sizes[-1]}) for size in sizes]
    for request in drawn.items:
        shared = {"request": request_record(trimmed(request, options.probes)), "method": options.method, "layer": layer}
        cells += [Cell("rewrite", {**shared, "settings": {"moment_tokens": size}}) for size in sizes]
    settings = {name: getattr(options, name) for name in ("facts", "seed", "source", "method", "layer")}
    about = {"options": {**settings, "tokens": sizes}, **drawn.about}
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """Write distance and edit success over the sample size."""
    from experiments.studies.parts.plots import covariance_figure

    info = ledger.info(run)
    options = info.about["options"]
    table = by_size(entries(ledger, run))
    title = (
        f"the second moment of layer {options['layer']}'s keys, and {options['facts']} edits by "
        f"{options['method']} with each sample"
    )
    numbers = {"n": options["facts"], "sizes": table.astype(object).where(table.notna(), None).to_dict("records")}
    figure = covariance_figure(table, options["method"])
    return output.write(ledger, run, folder, output.Output(title, figure, table, _shown(table), numbers))


def by_size(finished: Iterable[Entry]) -> pd.DataFrame:
    """One row a sample size: both distances, the condition number, and each score's mean over the n edits that have it,
    with its 95 % bootstrap interval over edits.

    Raises:
        ValueError: if nothing is finished.
    """
    from metrics.statistics import bootstrap

    moments: dict[int, dict[str, Any]] = {}
    scores: dict[int, list[dict[str, float | None]]] = {}
    for entry in finished:
        if entry.result is None:
            continue
        if entry.kind == "moment":
            moments[entry.spec["tokens"]] = entry.result
        else:
            scores.setdefault(entry.spec["settings"]["moment_tokens"], []).append(scores_of(entry.result))
    if not moments:
        raise ValueError("no second moment is finished, so there is nothing to compare; resume the run")
    rows = []
    for size in sorted(moments):
        row: dict[str, Any] = {"tokens": size, **moments[size]}
        for name in SCORES:
            values = [value for result in scores.get(size, []) if (value := result[name]) is not None]
            low, high = (bootstrap(values) if values else None) or (None, None)
            row |= {name: fmean(values) if values else None, f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_n"] = len(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(table: pd.DataFrame) -> str:
    headers = ["Tokens", "distance to the largest", "between two streams", "condition number"]
    headers += [f"{name} (n = {table[f'{name}_n'].max()})" for name in SCORES]
    rows = [
        (
            f"{row['tokens']:,}",
            f"{row['distance']:.4f}",
            f"{row['between_streams']:.4f}",
            "singular" if pd.isna(row["condition_number"]) else f"{row['condition_number']:.1e}",
            *(output.between(row[name], row[f"{name}_low"], row[f"{name}_high"], 2) for name in SCORES),
        )
        for row in table.to_dict("records")
    ]
    return output.markdown(headers, rows)
