"""Published results beside ours: the same scores of single edits, for the models they were published for.

The scores of the table of ROME (Meng et al. 2022, arXiv:2202.05262), CounterFact+ (Hoelscher-Obermaier et al. 2023,
arXiv:2305.17553) and EasyEdit (Wang et al. 2023, arXiv:2308.07269) by their own protocols (docs/protocols.md), beside
what was published for a model of this family and size (`models.published.RESULTS`).  Where nothing was, ours stands
alone.  Layers are the published ones, and ROME and R-ROME take all constants of their public codes, unless others are
given.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.cells.rewrite import fewer, layer_for
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan
from experiments.studies.methods_by_protocol import compared
from experiments.studies.parts import output
from experiments.studies.parts.edit_options import add_edit_options, asked_of, settings_of
from experiments.studies.parts.known import ATLAS, draw_cases, draw_requests
from facts import Case, EditRequest
from facts.importers import record_of
from facts.records import request_record
from models.published import Result, results_for

if TYPE_CHECKING:
    from models import LanguageModel

NAME = "rome-table"
HELP = "published scores of single edits beside ours"
PROTOCOLS = {"counterfact": ("rome", "counterfact+"), "zsre": ("easyedit",)}
"""Format of the dataset -> the protocols of its papers."""
OTHERS = ("rome",)
"""Protocols for other data."""


def add_options(parser: ArgumentParser) -> None:
    """The study's own options."""
    add_edit_options(parser, 50, "facts to edit")
    parser.add_argument("--file", dest="source", default=SUPPRESS, help="the same as --source")
    parser.add_argument("--methods", nargs="+", default=["rome"], help="editing methods")
    parser.add_argument("--layer", type=int, default=None, help="to edit at (default: the published one)")
    parser.add_argument("--protocols", nargs="+", default=None, help="ways of measuring (default: the dataset's own)")
    parser.add_argument("--probes", type=int, default=10, help="paraphrases and neighbours of an edit")
    parser.add_argument("--snippets", default="", help="ROME's attribute_snippets.json, for GE and RS")


def plan(options: Namespace, model: LanguageModel) -> Plan:
    """A cell for every fact and method."""
    from editing.parts.suggest import suggest_layer

    atlas = options.source == ATLAS
    draw = draw_requests if atlas else draw_cases
    drawn = draw(model, options.source, options.facts, options.seed, options.all_facts, options.keep_same_answers)
    data = ATLAS if atlas else str(getattr(drawn.items[0], "source", ""))
    protocols = list(options.protocols or PROTOCOLS.get(data, OTHERS))
    layer = suggest_layer(model) if options.layer is None else options.layer
    settings = settings_of(options, options.methods)
    snippets = {"snippets": options.snippets} if options.snippets else {}
    cells = []
    for item in drawn.items:
        shared = {**_edited(item, options.probes, bool(snippets)), "protocols": protocols, "seed": options.seed}
        for method in options.methods:
            edit = {"method": method, "layer": layer_for(method, layer)}
            constants = {**public_constants(method), **settings[method]}
            cells.append(Cell("protocols", {**shared, **snippets, **edit, "settings": constants}))
    about = {
        "options": {
            **{name: getattr(options, name) for name in ("facts", "seed", "source", "probes", "methods")},
            **asked_of(options),
            **snippets,
            "layer": layer,
            "protocols": protocols,
        },
        "data": data,
        "size": size_of(model),
        **drawn.about,
    }
    return Plan(options.name or NAME, options.model, tuple(cells), about=about)


def size_of(model: LanguageModel) -> list[Any]:
    """Family, layers and d_model, by which published results are looked up."""
    return [model.architecture.family, model.n_layers, model.d_model]


def public_constants(method: str) -> dict[str, Any]:
    """The setting by which a method takes all constants of its public code; empty where it has none."""
    from editing import get_method

    for knob in fields(get_method(method).config_type):
        if knob.name == "compat":
            return {"compat": next(choice for choice in knob.metadata["choices"] if choice.endswith("-code"))}
    return {}


def _edited(item: EditRequest | Case, probes: int, texts: bool) -> dict[str, Any]:
    """What a cell is about; generation prompts are left out where no number needs them."""
    if isinstance(item, EditRequest):
        return {"request": request_record(_asked(item, probes, texts))}
    return {"case": record_of(replace(item, requests=tuple(_asked(one, probes, texts) for one in item.requests)))}


def _asked(request: EditRequest, probes: int, texts: bool) -> EditRequest:
    short = fewer(request, probes)
    return short if texts else replace(short, generation_prompts=())


def summarise(ledger: Ledger, run: str, folder: Path) -> list[Path]:
    """The table, and a figure of the scores that both have."""
    from experiments.studies.parts.plots import published_figure

    info = ledger.info(run)
    family, n_layers, d_model = info.about["size"]
    published = results_for((family, n_layers, d_model), info.about["data"])
    table = beside(compared(entries(ledger, run), seed=info.about["options"]["seed"]), published)
    rows: list[Any] = table.astype(object).where(table.notna(), None).to_dict("records")
    title = f"{info.about['options']['facts']} edits, {int(table['published'].notna().sum())} published scores"
    note = "" if info.about["options"].get("all_facts") else KNOWN
    shown = "\n".join(filter(None, (shown_table(rows), note)))
    whole = output.Output(title, published_figure(table), table, shown, {"rows": rows})
    return output.write(ledger, run, folder, whole)


KNOWN = "Only facts that the model knows were edited; the papers edit every fact of the file (`--all-facts`).\n"


def beside(ours: pd.DataFrame, published: Sequence[Result]) -> pd.DataFrame:
    """One row per method, protocol, score and time (before and after the edit): the published value, ours with its
    interval and n; a published number that this study does not measure has none of ours.

    Args:
        ours: of `methods_by_protocol.compared`.
    """
    left = list(published)
    rows = []
    for row in ours.to_dict("records"):
        for before in (True, False):
            value = row["before"] if before else row["value"]
            if pd.isna(value):
                continue
            theirs = [
                result
                for result in left
                if (result.method, result.protocol, result.name, result.before, result.how)
                == (row["method"], row["protocol"], row["name"], before, "")
            ]
            left = [result for result in left if result not in theirs]
            ends = {"ci_low": None, "ci_high": None} if before else {end: row[end] for end in ("ci_low", "ci_high")}
            about = {"method": row["method"], "protocol": row["protocol"], "name": row["name"], "before": before}
            rows.append({**about, **_theirs(theirs[:1]), "ours": value, **ends, "n": row["n"], "unit": row["unit"]})
    for result in left:
        about = {"method": result.method, "protocol": result.protocol or "–", "name": result.name}
        none = {"ours": None, "ci_low": None, "ci_high": None, "n": None, "unit": "share"}
        rows.append({**about, "before": result.before, **_theirs([result]), **none})
    return pd.DataFrame(rows)


def _theirs(results: Sequence[Result]) -> dict[str, Any]:
    """The published value and where it is from; empty without one."""
    if not results:
        return {"published": None, "source": "", "how": ""}
    return {"published": results[0].value, "source": results[0].source, "how": results[0].how}


def shown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    heads = ("Method", "protocol", "score", "edit", "published", "ours (95 % interval)", "n", "published by")
    return output.markdown(
        heads,
        [
            (
                row["method"] or "–",
                row["protocol"],
                row["name"],
                "before" if row["before"] else "after",
                "–" if row["published"] is None else f"{row['published']:.3f}",
                output.between(row["ours"], row["ci_low"], row["ci_high"]),
                "–" if row["n"] is None else int(row["n"]),
                "; ".join(filter(None, (row["source"], row["how"]))) or "–",
            )
            for row in rows
        ],
    )
