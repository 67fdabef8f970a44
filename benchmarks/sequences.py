"""`python -m benchmarks.sequences --kind batch --methods memit alphaedit emmet`

What many edits do to one model: all at once (batch), or one after the other (sequential).  After 10, 50 and 200 edits
it asks every edit made so far, its paraphrases and neighbours, and reads neutral text (perplexity); in a sequence, also
how many edits held at the moment they were made (immediate), and how many of those still do (retention).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import torch

from benchmarks.parts.cases import Case, make_cases
from benchmarks.parts.greedy import Question, ask_all
from benchmarks.parts.held_out import held_out_requests
from benchmarks.parts.variants import NO_OP, variants, weights_of
from editing import apply_edits, get_method
from editing.configs import make_config
from experiments.guard import ordinary_texts
from experiments.sequences import RollBack, edits_in_turn
from facts import EditRequest
from facts.atlas import load_atlas
from metrics.sequence import text_perplexity
from models import LanguageModel
from models.options import add_model_options, load_from
from models.reference.corpus import sample_texts

GUARD_SEED = 12_345
"""Of the neutral texts; the moments are estimated on another stream."""
GUARD_TEXTS = 100
PARAPHRASES, NEIGHBORS = 2, 2
"""Prompts for each edit, besides the edit prompt."""


def few_probes(request: EditRequest) -> EditRequest:
    """The request with the paraphrases and neighbours that are asked here."""
    probes = (*request.of_kind("paraphrase")[:PARAPHRASES], *request.of_kind("neighborhood")[:NEIGHBORS])
    return replace(request, probes=probes)


def shares(model: LanguageModel, cases: Sequence[Case]) -> dict[str, float | None]:
    """Greedy shares over the edits: their own prompts, paraphrases, and neighbours the base answers and no edit is
    about."""
    edited = {case.request.fact.prompt for case in cases}
    questions: dict[str, list[Question]] = {"reliability": [], "generalization": [], "locality": []}
    for case in cases:
        for item, question in case.questions.items():
            if item in case.counted and not (item.metric == "locality" and item.prompt in edited):
                questions[item.metric].append(question)
    said = ask_all(model, [question for group in questions.values() for question in group])
    right_of = {
        name: [said[question].right for question in group if question in said] for name, group in questions.items()
    }
    return {name: fmean(right) if right else None for name, right in right_of.items()}


def batches(
    model: LanguageModel, name: str, settings: Mapping[str, Any], cases: Sequence[Case], counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One line for each count n: the first n requests edited at once on the unedited model."""
    method = get_method(name)
    if not method.batch:
        raise ValueError(f"{method.title} takes one request at a time; measure it with --kind sequential")
    config = make_config(method.config_type, settings)
    for count in counts:
        began = process_time()
        edit = method.compute(model, [case.request for case in cases[:count]], config)
        seconds = process_time() - began
        yield _line(apply_edits(model, [edit]), cases[:count]) | {"seconds": seconds}


def sequence(
    model: LanguageModel,
    name: str,
    settings: Mapping[str, Any],
    cases: Sequence[Case],
    counts: Sequence[int],
    guard: RollBack | None = None,
) -> Iterator[dict[str, Any]]:
    """One line for each count: requests edited one after the other, each on the model with those before it.

    An edit that the method refuses, as may happen on a model that earlier edits broke, counts as not holding; so does
    one that the guard takes back.
    """
    chosen = cases[: max(counts)]
    steps = edits_in_turn(model, [case.request for case in chosen], name, settings, roll_back=guard)
    held: list[bool] = []
    refused, taken_back, seconds = 0, 0, 0.0
    for index, case in enumerate(chosen, start=1):
        began = process_time()
        step = next(steps)
        seconds += process_time() - began
        view = step.view
        refused += bool(step.failed)
        taken_back += bool(step.rolled_back)
        held += _hold(view, [case])
        if index in counts:
            now = _hold(view, cases[:index])
            still = [kept for kept, before in zip(now, held, strict=True) if before]
            retention = fmean(still) if still else None
            more = {"immediate": fmean(held), "retention": retention, "seconds": seconds, "refused": refused}
            more |= {} if guard is None else {"taken_back": taken_back}
            yield _line(view, cases[:index]) | more


def _hold(model: LanguageModel, cases: Sequence[Case]) -> list[bool]:
    """Whether each edit's own prompt gets its new answer."""
    questions = [
        Question(case.request.fact.prompt, case.request.target_new, case.request.fact.target_true) for case in cases
    ]
    said = ask_all(model, questions)
    return [said[question].right for question in questions]


def _line(model: LanguageModel, cases: Sequence[Case]) -> dict[str, Any]:
    texts = sample_texts(GUARD_TEXTS, GUARD_SEED)
    return {
        "edits": len(cases),
        **shares(model, cases),
        "perplexity": text_perplexity(model, texts, model.max_positions),
    }


COLUMNS = {
    "edits": "Edits",
    "taken_back": "Taken back",
    "immediate": "Held when made",
    "reliability": "Hold at the end",
    "retention": "Of those held, hold still",
    "generalization": "Paraphrases",
    "locality": "Neighbours kept",
    "perplexity": "Perplexity",
    "seconds": "Processor seconds",
}
"""Key of a figure -> head of its column."""


def table(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The lines of several methods as Markdown, shares in %; empty columns are left out."""
    keys = [key for key in COLUMNS if any(key in line for lines in curves.values() for line in lines)]
    rows = [f"| Method | {' | '.join(COLUMNS[key] for key in keys)} |", "|---|" + "---:|" * len(keys)]
    for label, lines in curves.items():
        for line in lines:
            rows.append(f"| {label} | {' | '.join(_cell(key, line.get(key)) for key in keys)} |")
    return "\n".join(rows)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key in ("edits", "taken_back"):
        return str(value)
    if key == "seconds":
        return f"{value:.0f}"
    return f"{value:.3g}" if key == "perplexity" else f"{100 * value:.1f}"


KINDS = {"batch": batches, "sequential": sequence}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each method and count; returns 0, or 2 after an error message."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    try:
        model = load_from(options)
        chosen = variants(model, options.methods, options.set)
        counts = sorted(set(options.counts))
        requests = held_out_requests(model, load_atlas(), max(counts), options.seed, split=options.split)
        cases = make_cases(model, [few_probes(request) for request in requests])
        options.out.mkdir(parents=True, exist_ok=True)
        curves: dict[str, list[dict[str, Any]]] = {NO_OP: [_line(model, cases)]}
        for label, (name, settings) in chosen.items():
            if name == NO_OP:
                raise ValueError(f"{NO_OP} makes no edits; choose methods")
            curves[label] = _method(model, label, name, settings, cases, counts, options)
            print(f"{label} is done", file=sys.stderr, flush=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(curves) if options.json else table(curves))
    if options.figure:
        from benchmarks.parts.plots import sequence_figure

        sequence_figure({label: lines for label, lines in curves.items() if label != NO_OP}, options.kind).savefig(
            options.figure, dpi=200
        )
    return 0


def _method(
    model: LanguageModel,
    label: str,
    name: str,
    settings: Mapping[str, Any],
    cases: Sequence[Case],
    counts: Sequence[int],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The method's lines, from its file if it was measured before."""
    about = {"model": weights_of(model), "settings": dict(settings), "counts": list(counts), "seed": options.seed}
    about |= {"split": options.split} if options.split != "test" else {}
    guard: dict[str, Any] = {}
    if options.roll_back:
        if options.kind == "batch":
            raise ValueError("one edit of many facts is not taken back in part; leave out --roll-back")
        about["roll_back"] = True
        guard["guard"] = RollBack(tuple(ordinary_texts()), text_perplexity(model, ordinary_texts()))
    path = options.out / options.kind / f"{label}.json"
    if path.is_file():
        read = json.loads(path.read_text(encoding="utf-8"))
        if read["about"] != about:
            raise ValueError(f"{str(path)!r} holds figures of another model or other settings; remove it")
        lines: list[dict[str, Any]] = read["lines"]
        return lines
    lines = list(KINDS[options.kind](model, name, settings, cases, counts, **guard))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n", encoding="utf-8")
    return lines


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 50, 200], help="numbers of edits to stop at")
    add_model_options(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="METHOD.SETTING=VALUE", help="such as rome.layer=1")
    parser.add_argument("--roll-back", action="store_true", help="take back an edit that more than doubles perplexity")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of edits")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="whose subjects")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--figure", type=Path, help="also draw the curves here (.png)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
