"""`python -m benchmarks.second_moments --model smollm2-135m --n 8`: which text is best for the second moment.

For each fact of a validation subject that the model knows R-ROME searches once; then the same value is written with the
second moments of several texts, lengths and treatments of a text's first token, so that only C differs.  Perplexity is
that of three kinds of text that no estimate has read.  A stopped run goes on from the lines in --out.

`--keys` needs no edit: it prints how far a change along u = C^-1 k, in units of the fact's own key, moves other keys:
root mean square over tokens, mean over facts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.parts.cases import Case, make_cases
from editing.methods.rome import RRomeConfig
from editing.parts.contexts import make_contexts
from editing.parts.keys import fact_position, make_batch, mean_key
from editing.parts.moments import Moment, estimate, identity
from editing.parts.rank_one import key_direction, solve
from editing.parts.suggest import suggest_layer
from editing.parts.values import optimise_value, read_start
from editing.train.episodes import known_facts, split_of
from experiments.guard import ordinary_texts
from facts import EditRequest
from facts.atlas import load_atlas
from facts.probes import edit_request
from metrics.sequence import text_perplexity
from metrics.statistics import bootstrap
from models import LanguageModel, Sampling, as_out_in
from models.forwards.hooks import read_states
from models.options import add_model_options, load_from
from models.reference.corpus import sample_texts

SIZES = (2_000, 5_000, 20_000, 50_000, 100_000)
COMPARED, MIXED = 5_000, 20_000
"""Tokens of every kind of text where kinds are compared, and where the atlas and samples are mixed in halves."""
SAMPLE_TOKENS, TOP_K, GUARD, CUT = 100, 50, 8, 48
PERPLEXITIES = ("atlas", "samples", "prose")
COLUMNS = ("reliability", "generalization", "locality_neighborhood", "locality", "kl", *PERPLEXITIES)


def samples(model: LanguageModel, n: int) -> list[str]:
    """`n` texts drawn from the model among its 50 likeliest tokens, each from another likely first token."""
    start = model.tokenizer.bos_token_id
    start = model.tokenizer.eos_token_id if start is None else start
    logits = model.logits(torch.tensor([[start]]))[0, -1]
    special = set(model.tokenizer.all_special_ids)
    ranked = [token for token in logits.topk(2 * n + 50).indices.tolist() if token not in special]
    rows = [[start, token] for token in ranked if model.decode([token]).strip()][:n]
    texts: list[str] = []
    for at in range(0, len(rows), 64):
        some = rows[at : at + 64]
        texts += [
            model.decode([*row[1:], *ids])
            for row, ids in zip(some, model.drawn(some, SAMPLE_TOKENS, Sampling(TOP_K)), strict=True)
        ]
    return [" ".join(text.split()) for text in texts]


def prose() -> list[str]:
    """Paragraphs of this repository's pages, without tables, code and pictures."""
    root = Path(__file__).parent.parent
    pages = [*sorted((root / "docs").glob("*.md")), root / "README.md", root / "CONTRIBUTING.md"]
    blocks = [" ".join(block.split()) for page in pages for block in page.read_text(encoding="utf-8").split("\n\n")]
    chosen = [block for block in blocks if len(block) > 80 and block[0].isalpha() and "|" not in block]
    random.Random("prose").shuffle(chosen)
    return chosen


def moments(
    model: LanguageModel, layer: int, texts: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Callable[[], Moment]]]:
    """(name, what makes the estimate) of everything that is compared."""

    def of(some: Sequence[str], size: int, skip: int = 0) -> Moment:
        return estimate(model, [layer], some, size, skip=skip)[layer]

    def half() -> Moment:
        halves = [of(texts[name], MIXED // 2) for name in ("atlas", "samples")]
        return replace(halves[0], matrix=sum(moment.matrix for moment in halves) / 2, n_tokens=MIXED)

    yield "C = I", lambda: identity(model.d_mlp)
    for name, some in texts.items():
        for size in SIZES if name == "atlas" else (COMPARED,):
            for skip in (0, 1) if size == COMPARED else (0,):
                label = f"{name}, {size:,}" + (", without first tokens" if skip else "")
                yield label, partial(of, some, size, skip)
    yield f"samples, {MIXED:,}", lambda: of(texts["samples"], MIXED)
    yield f"atlas and samples, {MIXED:,}", half


def requests_of(model: LanguageModel, n: int) -> list[EditRequest]:
    """Edits of facts of validation subjects that the model knows, relations in turn."""
    atlas = load_atlas()
    rows = [fact for fact in atlas.facts if split_of(fact.subject) == "validation" and not fact.contains_answer]
    random.Random("moments").shuffle(rows)
    rows = rows[: 8 * n]
    known = known_facts(model, rows, atlas)
    by_relation: dict[str, list[EditRequest]] = {}
    for row in rows:
        if (row.subject, row.relation) in known:
            by_relation.setdefault(row.relation, []).append(
                edit_request(atlas, atlas.as_fact(row), atlas.counterfactual(row, 0), 5)
            )
    chosen: list[EditRequest] = []
    while len(chosen) < n and any(by_relation.values()):
        chosen += [left.pop() for left in by_relation.values() if left]
    return chosen[:n]


def changed(
    model: LanguageModel, layer: int, request: EditRequest, every: Mapping[str, Moment]
) -> Iterator[tuple[str, LanguageModel]]:
    """(name, the edited model) for each second moment; one search for all."""
    config = RRomeConfig(layer=layer)
    contexts = make_contexts(model, config.prefixes, config.seed)
    batch = make_batch(model, request.fact, request.target_new, contexts, config.fact_token)
    start = read_start(model, layer, batch, config.compat)
    value = optimise_value(model, layer, batch, start, config.value_settings)
    name, module = model.architecture.key_weight_name(layer), model.key_module(layer)
    weight = as_out_in(module, model.weight(name))
    for label, moment in every.items():
        direction = key_direction(mean_key(start.keys[:-1]), moment, config.ridge)
        found = solve(weight, getattr(module, "bias", None), start, value, direction, config.compat)
        new = (weight.double() + found.rows @ found.cols).float()
        yield label, model.view({name: new if model.weight(name).shape == new.shape else new.T})


def moved_keys(
    model: LanguageModel,
    layer: int,
    requests: Sequence[EditRequest],
    every: Mapping[str, Moment],
    guard: Mapping[str, Sequence[str]],
) -> str:
    """A table: |u . k| / |u . k*| of the keys of neighbour prompts, of texts, and of first tokens."""
    requests = [request for request in requests if request.of_kind("neighborhood")]
    ridge = RRomeConfig(layer=layer).ridge
    texts = {kind: [read_keys(model, layer, text) for text in some] for kind, some in guard.items()}
    first = torch.stack([keys[0] for some in texts.values() for keys in some])
    groups = {kind: torch.cat([keys[1:] for keys in some]) for kind, some in texts.items()} | {"first tokens": first}
    keys_of = [read_keys(model, layer, request.fact.prompt)[fact_position(model, request.fact)] for request in requests]
    near = [
        torch.cat([read_keys(model, layer, probe.prompt)[1:] for probe in request.of_kind("neighborhood")])
        for request in requests
    ]
    rows = ["| second moment | neighbour prompts | " + " | ".join(groups) + " |", "|---" * (len(groups) + 2) + "|"]
    for label, moment in every.items():
        ratios: dict[str, list[float]] = {}
        for key, neighbors in zip(keys_of, near, strict=True):
            direction = key_direction(key, moment, ridge)
            for kind, keys in {"": neighbors, **groups}.items():
                moved = (keys.double() @ direction) / (key.double() @ direction)
                ratios.setdefault(kind, []).append(float(moved.square().mean().sqrt()))
        rows.append(f"| {label} | " + " | ".join(f"{fmean(values):.3f}" for values in ratios.values()) + " |")
    return "\n".join(rows)


def read_keys(model: LanguageModel, layer: int, text: str) -> torch.Tensor:
    """[pos, d_mlp], the keys of a text's tokens."""
    return read_states(model, torch.tensor([model.encode(text)]), [("mlp_key", layer)])["mlp_key", layer][0]


def figures(
    case: Case, model: LanguageModel, edited: LanguageModel, guard: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """One edit's figures: shares, KL, and ratios of perplexity."""
    ratios = {}
    for kind, texts in guard.items():
        before, after = (text_perplexity(one, texts, CUT) for one in (model, edited))
        ratios[kind] = after / before if before and after else None
    return case.figures(edited) | ratios


def _mean(values: Sequence[float], sign: str = "") -> str:
    """The mean with its bootstrap interval; a dash for none."""
    low, high = (bootstrap(values) if values else None) or (float("nan"), float("nan"))
    return f"{fmean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})" if values else "–"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Means over edits with bootstrap intervals, a line a second moment."""
    rows = ["| second moment | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label in dict.fromkeys(line["moment"] for line in lines):
        cells = []
        for column in COLUMNS:
            values = [line[column] for line in lines if line["moment"] == label and line.get(column) is not None]
            cells.append(_mean(values))
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def differences(lines: Sequence[Mapping[str, Any]]) -> str:
    """Each second moment less the first one, paired over edits, with bootstrap intervals."""
    labels = list(dict.fromkeys(line["moment"] for line in lines))
    by_edit = {(line["moment"], line["prompt"]): line for line in lines}
    rows = [f"| less {labels[0]} | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label in labels[1:]:
        pairs = [
            (by_edit[label, prompt], line)
            for (first, prompt), line in by_edit.items()
            if first == labels[0] and (label, prompt) in by_edit
        ]
        cells = []
        for column in COLUMNS:
            both = [(one.get(column), other.get(column)) for one, other in pairs]
            values = [one - other for one, other in both if one is not None and other is not None]
            cells.append(_mean(values, "+"))
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_moments", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--n", type=int, default=8, help="edits")
    parser.add_argument("--layer", type=int, help="layer to edit, by default the usual one")
    parser.add_argument("--out", default="second_moments.jsonl", help="file of the lines")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="second moments as the table names them (default: all)"
    )
    parser.add_argument("--keys", action="store_true", help="compare how far other keys move, without editing")
    add_model_options(parser)
    options = parser.parse_args(argv)
    model = load_from(options)
    layer = suggest_layer(model) if options.layer is None else options.layer
    out = Path(options.out)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    mine = [line for line in lines if (line["model"], line["layer"]) == (model.revision, layer)]
    text = prose()
    own = samples(model, MIXED // SAMPLE_TOKENS + 10 + GUARD)
    guard = {"atlas": ordinary_texts(GUARD), "samples": own[50 : 50 + GUARD], "prose": text[-GUARD:]}
    texts = {"atlas": sample_texts(SIZES[-1] // 8), "samples": own[:50] + own[50 + GUARD :], "prose": text[:-GUARD]}
    makers = dict(moments(model, layer, texts))
    if unknown := set(options.only or ()) - set(makers):
        parser.error(f"--only names {', '.join(sorted(unknown))}; there is {'; '.join(makers)}")
    every = {label: make() for label, make in makers.items() if label in (options.only or makers)}
    for label, moment in every.items():
        print(
            f"{label}: {moment.n_tokens} tokens, trace {float(moment.matrix.trace()):.4g}", file=sys.stderr, flush=True
        )
    requests = requests_of(model, options.n)
    if options.keys:
        print(f"{model.name}, layer {layer}, {len(requests)} facts\n")
        print(moved_keys(model, layer, requests, every, guard))
        return 0
    done = {(line["prompt"], line["moment"]) for line in mine}
    for number, request in enumerate(requests, 1):
        missing = {label: every[label] for label in every if (request.fact.prompt, label) not in done}
        if not missing:
            continue
        (case,) = make_cases(model, [request])
        for label, edited in changed(model, layer, request, missing):
            line = {"model": model.revision, "layer": layer, "moment": label, "prompt": request.fact.prompt}
            mine.append(line | figures(case, model, edited, guard))
            with out.open("a") as file:
                file.write(json.dumps(mine[-1]) + "\n")
        print(f"{number} of {len(requests)}: {request.fact.prompt}", file=sys.stderr, flush=True)
    print(f"{model.name}, layer {layer}\n\n{table(mine)}\n\n{differences(mine)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
