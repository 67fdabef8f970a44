"""`python -m benchmarks.estimates`: the memory guard's estimates beside the peak memory of cells.

Each cell is run once on the model, on one thread, after a first cell has imported everything.  Its peak is the largest
resident memory during the cell minus that before it (`benchmarks.parts.memory`), so that memory which stays, such as a
cached second moment, counts as well.  The guard refuses cells by the estimate (`experiments.memory`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.parts.memory import reset_peak, since_reset
from experiments.cells.trace import level_of
from experiments.kinds import Context, get_kind
from experiments.plan import Spec
from experiments.plan_files import sample_facts
from experiments.workers.processes import one_thread
from facts.atlas import load_atlas
from facts.probes import edit_request
from facts.records import request_record
from models import LanguageModel
from models.options import add_model_options, load_from
from tracing import measure_noise

LOOKED = 100
"""Facts among which the longest prompts are chosen, since those need most memory."""
MAPS = [
    {"batch_size": 64, **more}
    for more in ({"site": "resid_post"}, {"site": "mlp_out", "window": 3}, {"site": "resid_post", "severed": "mlp_out"})
]


def cases(model: LanguageModel, layer: int) -> list[tuple[str, str, Spec]]:
    """(description, kind, settings) of cells of every kind."""
    atlas = load_atlas()
    rows = sorted(sample_facts(LOOKED, 0), key=lambda row: len(atlas.as_fact(row).prompt))[-8:]
    facts = [atlas.as_fact(row) for row in rows]
    requests = [request_record(edit_request(atlas, atlas.as_fact(row), atlas.counterfactual(row, 0))) for row in rows]
    level = level_of(measure_noise(model, [fact.subject for fact in facts]))
    trace = {"fact": asdict(facts[-1]), "level": level}
    edit = {"request": requests[-1], "layer": layer}
    cells: list[tuple[str, str, Spec]] = [
        (f"states, batch of {rows}", "trace", {**trace, "batch_size": rows}) for rows in (1, 64)
    ]
    cells.append(("MLPs, batch of 256", "trace", {**trace, "site": "mlp_out", "window": 3, "batch_size": 256}))
    cells.append(
        (
            "8 facts, 3 maps, batch of 64",
            "average",
            {"facts": list(map(asdict, facts)), "configs": MAPS, "level": level},
        )
    )
    methods = {"r-rome": {}, "memit": {"layer": None}, "alphaedit": {"layer": None}, "ft-m": {}, "grace": {}}
    cells += [(method, "edit", {**edit, "method": method, **more}) for method, more in methods.items()]
    cells.append(("r-rome", "rewrite", {**edit, "method": "r-rome"}))
    cells.append(("r-rome", "protocols", {**edit, "method": "r-rome"}))
    cells.append(("r-rome, 8 edits", "sequence", {"requests": requests, "method": "r-rome", "layer": layer}))
    return cells


def measure(model: LanguageModel, kind_name: str, spec: Spec) -> dict[str, Any]:
    """Estimated and measured bytes."""
    kind = get_kind(kind_name)
    whole = kind.complete(spec)
    context = Context()
    context.enter("", 0, lambda: False)
    held = reset_peak()
    kind.run(model, whole, context)
    peak = since_reset()
    taken = None if held is None or peak is None else peak - held
    estimated = kind.estimate_bytes(model, whole)
    return {"estimated": estimated, "peak": taken, "ratio": estimated / taken if taken else None}


HEADS = ("| kind | cell | estimated, MiB | peak, MiB | estimated / peak |", "|---|---|---:|---:|---:|")


def row(line: Mapping[str, Any]) -> str:
    """A measurement as a row of Markdown, in MiB."""
    words = "not told here | –" if line["ratio"] is None else f"{line['peak'] / 2**20:.1f} | {line['ratio']:.2f}"
    return f"| `{line['kind']}` | {line['cell']} | {line['estimated'] / 2**20:.1f} | {words} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--layer", type=int, default=1, help="edited")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    options = parser.parse_args(arguments)
    one_thread()
    model = load_from(options)
    listed = cases(model, options.layer)
    measure(model, *listed[0][1:])  # imports are not counted for the first measured cell
    lines = []
    if not options.json:
        print(*HEADS, sep="\n", flush=True)
    for words, kind, spec in listed:
        lines.append({"kind": kind, "cell": words, **measure(model, kind, spec)})
        if not options.json:
            print(row(lines[-1]), flush=True)
    if options.json:
        print(json.dumps(lines, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
