"""`python -m editing "The Space Needle is in the city of" --subject "Space Needle" --target-new Paris --layer 4`

Applies the edit to a view of the model and prints what it did: diagnostics and the five metrics.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, fields, replace
from pathlib import Path
from typing import Any

from app import workflow
from app.probes import find_fact
from editing.applied.adapter import export_adapter, export_gguf_adapter
from editing.applied.view import EditedModel, apply_edits
from editing.edit import Edit
from editing.files import save_edit
from editing.parts.suggest import choose_layer
from editing.registry import DEFAULT_METHOD, METHODS, get_method
from experiments.guard import guarded, why_broken
from facts.language.shell import complain, told
from facts.regular import check_place
from facts.watch import UNWATCHED, Watch
from metrics import EditReport
from metrics.definitions import METRICS
from metrics.tables import HEADERS, cells
from models import notes_on
from models.cards import read_card
from models.options import add_model_options, load_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Edit, measure, print.  Returns 0, or 2 with one sentence on stderr for an error."""
    try:
        options = _options(arguments)
        places = [place for place in (options.save_to, options.save_adapter, options.save_gguf) if place]
        for place in places:  # before the work
            if place != options.save_adapter or not place.is_dir():
                check_place(place)
        edit, view, report, why = _run(options)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    if options.json:
        printed = {"edit": description(edit), "report": json.loads(report.to_json()), "broken": list(why)}
        print(json.dumps(printed, ensure_ascii=False))
    else:
        print(summary(edit, report))
        if options.full:
            print("\n" + report.to_markdown())
    if why:
        print(f"note: this edit is broken: {'; '.join(why)}", file=sys.stderr)
    if places and why and not options.keep_broken:
        print("note: a broken edit is not saved; give --keep-broken to save it anyway", file=sys.stderr)
        return 0
    try:
        _save(options, edit, view)
    except (ValueError, OSError) as error:  # after the report, which the work was for
        complain(error)
        return 2
    if places and not options.json:
        print(f"\nEdit written to {', '.join(map(str, places))}")
    return 0


def _save(options: argparse.Namespace, edit: Edit, view: EditedModel) -> None:
    """Write the edit in every form that was asked for."""
    if options.save_to:
        save_edit(edit, options.save_to)
    if options.save_adapter:
        export_adapter(view, options.save_adapter)
    if options.save_gguf:
        export_gguf_adapter(view, options.save_gguf)


def description(edit: Edit) -> dict[str, Any]:
    """The edit without its tensors; numbers that are not finite are null."""
    return {
        "method": edit.method,
        "config": asdict(edit.config),
        "digest": edit.digest,
        "operations": [type(op).__name__ for op in edit.ops],
        "weights": [op.name for op in edit.weights],
        "diagnostics": [
            asdict(diagnostic) | {"value": diagnostic.value if math.isfinite(diagnostic.value) else None}
            for diagnostic in edit.diagnostics
        ],
        "losses": [asdict(step) for step in edit.losses],
        "seconds": dict(edit.seconds),
    }


def summary(edit: Edit, report: EditReport) -> str:
    """Diagnostics, five metrics and the text before and after, for a terminal."""
    request = edit.requests[0]
    layer = f", layer {edit.config.layer}" if hasattr(edit.config, "layer") else ""
    how = f"{edit.method}{layer}; protocol {report.protocol}"
    lines = [
        f"{request.fact.prompt} … {request.fact.target_true} → {request.target_new}",
        f"model {report.model_name}, revision {edit.model_revision[:12]}; {how}",
        "",
    ]
    width = max((len(diagnostic.name) for diagnostic in edit.diagnostics), default=0)
    lines += [f"  {d.name:<{width}}  {_number(d.value)} {d.unit}".rstrip() for d in edit.diagnostics]
    if edit.losses:
        lines.append(f"  {'loss by step':<{width}}  " + " ".join(f"{loss:.2f}" for loss in edit.loss_curve))
    lines += [f"  note: {warning}" for warning in edit.warnings]
    rows = [HEADERS, *(cells(report.headline(metric)) for metric in METRICS)]
    shown = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    lines.append("")
    lines += ["  ".join(cell.ljust(size) for cell, size in zip(row, shown, strict=True)).rstrip() for row in rows]
    for pair in report.texts:
        lines += ["", f"{pair.prompt} …", f"  before: {pair.before.strip()}", f"  after:  {pair.after.strip()}"]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _where(edit: Edit) -> str:
    """The method, and the layer where its settings name one."""
    layer = getattr(edit.config, "layer", None)
    return edit.method if layer is None else f"{edit.method}, layer {layer}"


def _run(options: argparse.Namespace) -> tuple[Edit, EditedModel, EditReport, tuple[str, ...]]:
    """The edit, the view that has it, its report, and why it should not be used."""
    # reports a misspelt subject before the wait
    fact = find_fact(options.prompt, options.subject, options.answer, options.occurrence)
    config_type = get_method(options.method).config_type
    given = {knob.name: getattr(options, knob.name) for knob in fields(config_type)}
    given = {name: value for name, value in given.items() if value is not None}
    suggests = "layer" in config_type.__dataclass_fields__ and "layer" not in given and _asks_for_layer(config_type)
    config = config_type(**given | ({"layer": 0} if suggests else {}))  # reports a wrong setting before the wait
    model = load_from(options)
    for note in (*model.origin_notes(), *notes_on(model, options.prompt, fact.subject, fact.start)):
        print(f"note: {note}", file=sys.stderr)
    request = workflow.request_for(
        model, options.prompt, options.subject, options.answer, options.target_new, occurrence=options.occurrence
    )
    if not fact.target_true:
        own = request.fact.target_true
        print(f"note: no true answer was given, so the model's own answer, {own!r}, is replaced", file=sys.stderr)
    if suggests:
        choice = choose_layer(model, read_card(options.card) if options.card else None)
        config = replace(config, layer=choice.layer)
        print(f"note: no --layer given. {choice.sentence} Compare others with --layer.", file=sys.stderr)
    made = guarded(model, [request], options.method, config, watch=_watch())
    edit = replace(made.edit, diagnostics=(*made.edit.diagnostics, *made.checks))
    report = workflow.evaluate(model, edit, request, watch=_watch())
    return edit, apply_edits(model, [edit]), report, why_broken(edit.diagnostics)


def _asks_for_layer(config_type: type[Any]) -> bool:
    """Whether a method's layer has no default."""
    return any(knob.name == "layer" and knob.default is MISSING for knob in fields(config_type))


def _watch() -> Watch:
    """A counter on the terminal, nothing in a pipe."""

    def show(done: int, total: int, stage: str) -> None:
        if total:
            print(f"\r{100 * done // total:3d} %", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return Watch(show) if sys.stderr.isatty() else UNWATCHED


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    chooser = argparse.ArgumentParser(add_help=False)
    names = f"one of {', '.join(METHODS)} (default: %(default)s)"
    chooser.add_argument("--method", default=DEFAULT_METHOD, metavar="METHOD", help=names)
    chosen, _ = chooser.parse_known_args(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m editing",
        parents=[chooser],
        description=told("Rewrite one fact of a language model and measure the rewrite with five metrics."),
    )
    parser.add_argument("prompt", help="a sentence that stops where the answer should come")
    parser.add_argument("--subject", required=True, help="the words of the prompt that name its subject")
    parser.add_argument("--target-new", required=True, help="what the edited model should answer")
    parser.add_argument(
        "--occurrence",
        type=int,
        default=0,
        help="which subject is meant, counted from 0, if it occurs several times",
    )
    parser.add_argument("--answer", default="", help="the true answer (default: the atlas's, else the model's own)")
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    parser.add_argument("--full", action="store_true", help="also print every score, as a Markdown table")
    # Not `save`: nnsight gives every object an attribute of that name, which argparse takes for a value already set.
    parser.add_argument(
        "--save", dest="save_to", type=Path, metavar="FILE", help="write the edit to a .safetensors file"
    )
    parser.add_argument(
        "--save-adapter", type=Path, metavar="FOLDER", help="write the edit as a LoRA folder that peft loads"
    )
    parser.add_argument(
        "--save-gguf", type=Path, metavar="FILE", help="write the edit as an adapter for llama.cpp (--lora FILE)"
    )
    parser.add_argument(
        "--card",
        type=Path,
        metavar="FILE",
        help="a layer-card.json that says which layer to edit (default: the model's)",
    )
    parser.add_argument("--keep-broken", action="store_true", help="save the edit even if it breaks the model")
    knobs = parser.add_argument_group(f"settings of {chosen.method}")
    for knob in fields(get_method(chosen.method).config_type):
        _add_knob(knobs, knob)
    return parser.parse_args(arguments)


def _add_knob(group: Any, knob: Field[Any]) -> None:
    """One option for a field of the method's config; ranges are checked by the config itself."""
    free = knob.default is MISSING or knob.default is None  # the layer, which then depends on the model
    default = " (default: the usual one for the model)" if free else f" (default: {knob.default!r})"
    name = f"--{knob.name.replace('_', '-')}"
    help_text = (str(knob.metadata.get("help", "")) + default).replace("%", "%%")
    if isinstance(knob.default, bool):
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        return
    group.add_argument(
        name,
        type=int if free else type(knob.default),
        # where a pattern also allows other texts, the config checks them
        choices=None if "pattern" in knob.metadata else knob.metadata.get("choices"),
        help=help_text,
    )
