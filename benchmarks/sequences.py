"""`python -m benchmarks.sequences --kind batch --methods memit alphaedit mend`

What many edits do to one model: all at once (batch), or one after the other (sequential).  After 10, 50 and 200 edits
it asks every edit made so far, its paraphrases and neighbours, and reads neutral text (perplexity); in a sequence, also
how many edits held at the moment they were made (immediate), and how many of those still do (retention).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.held_out import held_out_requests
from benchmarks.variants import NO_OP, variants
from editing import Edit, apply_edits, get_method
from editing.configs import make_config
from facts import EditRequest
from facts.atlas import load_atlas
from metrics import matches
from metrics.drift import text_nll
from metrics.generation import continuations
from models import LanguageModel, load_model
from models.reference.corpus import sample_texts

BUDGET = 12
"""New tokens of a continuation; no answer of the atlas is longer."""
GUARD_SEED = 12_345
"""Of the neutral texts; the moments are estimated on another stream."""
PARAPHRASES, NEIGHBORS = 2, 2
"""Prompts asked for each edit, besides its own."""


def shares(base: LanguageModel, model: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, float | None]:
    """Greedy shares over the edits: their own prompts, paraphrases, and neighbours the base answers and no edit is
    about."""
    edited = {request.fact.prompt for request in requests}
    own = [(request.fact.prompt, request.target_new) for request in requests]
    paraphrases = [(p.prompt, p.answer) for request in requests for p in request.of_kind("paraphrase")[:PARAPHRASES]]
    neighbors = [
        (p.prompt, p.answer)
        for request in requests
        for p in request.of_kind("neighborhood")[:NEIGHBORS]
        if p.prompt not in edited
    ]
    kept = [pair for pair, known in zip(neighbors, _right(base, neighbors), strict=True) if known]
    return {
        "reliability": _share(_right(model, own)),
        "generalization": _share(_right(model, paraphrases)),
        "locality": _share(_right(model, kept)),
    }


def _right(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    said = continuations(model, {prompt: BUDGET for prompt, _ in pairs})
    return [matches(said[prompt], [answer]) for prompt, answer in pairs]


def _share(right: Sequence[bool]) -> float | None:
    return fmean(right) if right else None


def perplexity_of(model: LanguageModel, texts: Sequence[str]) -> float | None:
    """exp(nats per token) over all texts; None where it is not finite."""
    read = text_nll(model, texts)
    nll = sum(sums for sums, _ in read) / sum(n for _, n in read)
    return math.exp(nll) if nll < 700 else None


def batches(
    model: LanguageModel, name: str, settings: Mapping[str, Any], requests: Sequence[EditRequest], counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One line for each count: the first so many requests edited at once on the unedited model."""
    method = get_method(name)
    if not method.batch:
        raise ValueError(f"{method.title} takes one request at a time; measure it with --kind sequential")
    for count in counts:
        edit = method.compute(model, requests[:count], make_config(method.config_type, settings))
        yield _line(model, apply_edits(model, [edit]), requests[:count]) | {"seconds": sum(edit.seconds.values())}


def sequence(
    model: LanguageModel, name: str, settings: Mapping[str, Any], requests: Sequence[EditRequest], counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One line for each count: requests edited one after the other, each on the model with those before it."""
    method = get_method(name)
    config = make_config(method.config_type, settings)
    edits: list[Edit] = []
    view: LanguageModel = model
    held: list[bool] = []
    seconds = 0.0
    for index, request in enumerate(requests[: max(counts)], start=1):
        edit = method.compute(view, [request], config, active=tuple(edits))
        edited = apply_edits(view, [edit])
        view, edits = edited, list(edited.edits)
        seconds += sum(edit.seconds.values())
        held += _right(view, [(request.fact.prompt, request.target_new)])
        if index in counts:
            now = _right(view, [(asked.fact.prompt, asked.target_new) for asked in requests[:index]])
            still = [kept for kept, before in zip(now, held, strict=True) if before]
            line = {"immediate": fmean(held), "retention": _share(still), "seconds": seconds}
            yield _line(model, view, requests[:index]) | line


def _line(base: LanguageModel, model: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, Any]:
    texts = sample_texts(100, GUARD_SEED)
    return {"edits": len(requests), **shares(base, model, requests), "perplexity": perplexity_of(model, texts)}


KINDS = {"batch": batches, "sequential": sequence}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each method and count; 0, or 2 with one sentence on stderr when it cannot be done."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    try:
        model = load_model(options.model)
        chosen = variants(model, options.methods, options.set)
        counts = sorted(set(options.counts))
        requests = held_out_requests(model, load_atlas(), max(counts), options.seed)
        options.out.mkdir(parents=True, exist_ok=True)
        for label, (name, settings) in chosen.items():
            if name == NO_OP:
                raise ValueError(f"{NO_OP} makes no edits; choose methods")
            lines = _method(model, label, name, settings, requests, counts, options)
            for line in lines:
                print(json.dumps({"method": label, "kind": options.kind, **line}), flush=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.figure:
        from benchmarks.plots import sequence_figure

        found = {
            path.stem: json.loads(path.read_text()) for path in sorted((options.out / options.kind).glob("*.json"))
        }
        sequence_figure({label: read["lines"] for label, read in found.items()}, options.kind).savefig(
            options.figure, dpi=200
        )
    return 0


def _method(
    model: LanguageModel,
    label: str,
    name: str,
    settings: Mapping[str, Any],
    requests: Sequence[EditRequest],
    counts: Sequence[int],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The method's lines, read from its file if it was measured already."""
    about = {"model": model.revision, "settings": dict(settings), "counts": list(counts), "seed": options.seed}
    path = options.out / options.kind / f"{label}.json"
    if path.is_file():
        read = json.loads(path.read_text(encoding="utf-8"))
        if read["about"] != about:
            raise ValueError(f"{str(path)!r} holds figures of another model or other settings; remove it")
        lines: list[dict[str, Any]] = read["lines"]
        return lines
    lines = list(KINDS[options.kind](model, name, settings, requests, counts))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n", encoding="utf-8")
    return lines


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 50, 200], help="numbers of edits to stop at")
    parser.add_argument("--model", default="reference", help='"reference", a folder or a hub id')
    parser.add_argument("--set", nargs="+", default=[], metavar="METHOD.SETTING=VALUE", help="such as rome.layer=1")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of edits")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--figure", type=Path, help="also draw all curves in the folder here (.png)")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
