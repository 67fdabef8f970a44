"""Measure the reference model: `python -m benchmarks.reference`.

What it knows (recall), where it keeps it (average causal effects, Meng et al. 2022, section 2), and whether a rank-one
edit rewrites it (ES, PS, NS of section 3.3, with the stricter greedy forms beside them).  Each figure is printed with
its target; docs/reference-model.md explains the targets.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from editing import apply_edits, get_method
from editing.configs import make_config
from editing.registry import DEFAULT_METHOD
from facts.atlas import Atlas, AtlasFact, load_atlas
from facts.probes import edit_request
from facts.types import Fact
from metrics import aggregate, evaluate
from models import LanguageModel, join, target_ids
from models.options import add_model_options, load_from
from models.reference.corpus import lowered
from tracing import AverageEffects, TraceConfig, average_effects, measure_noise

BEST_LAYER = 1
"""The layer where an edit works best on the bundled weights, found by `--sweep` on facts not used below."""
IN_CONTEXT = 200
"""Facts asked after a sentence that states another answer."""
BATCH = 128
SWEEP_EDITS = 8


def answers(model: LanguageModel, questions: Sequence[tuple[str, str]]) -> list[bool]:
    """For each (prompt, answer): whether the greedy continuation is the answer, token by token."""
    by_length: dict[int, list[int]] = defaultdict(list)
    joined = [join(model, prompt, answer) for prompt, answer in questions]
    for index, (ids, _) in enumerate(joined):
        by_length[len(ids)].append(index)
    right = [False] * len(questions)
    for indices in by_length.values():
        for start in range(0, len(indices), BATCH):
            chunk = indices[start : start + BATCH]
            rows = torch.tensor([joined[index][0] for index in chunk])
            best = model.logits(rows).argmax(-1)
            for row, index in enumerate(chunk):
                n_prompt = joined[index][1]
                right[index] = bool((best[row, n_prompt - 1 : -1] == rows[row, n_prompt:]).all())
    return right


def recall(model: LanguageModel, atlas: Atlas) -> tuple[float, float, int]:
    """Share of right answers over every fact in every training template, the same for held-out facts in the templates
    they were never trained with, and the number of those held-out prompts."""
    trained, held_out = [], []
    for fact in atlas.facts:
        relation = atlas.relations[fact.relation]
        trained += [(template.replace("{}", fact.subject), fact.object) for template in relation.templates]
        if fact.held_out:
            held_out += [
                (template.replace("{}", fact.subject), fact.object) for template in relation.held_out_templates
            ]
    return float(np.mean(answers(model, trained))), float(np.mean(answers(model, held_out))), len(held_out)


def in_context(model: LanguageModel, atlas: Atlas, n: int = IN_CONTEXT) -> float:
    """Share of `n` facts answered as the context says: "Imagine that X is in Rome. X is in" -> "Rome"."""
    source = random.Random(2)
    questions = []
    for row in source.sample(atlas.facts, n):
        fact, told = atlas.as_fact(row), atlas.counterfactual(row)
        imagined = lowered(fact.template).replace("{}", fact.subject)
        questions.append((f"Imagine that {imagined} {told}. {fact.prompt}", told))
    return float(np.mean(answers(model, questions)))


def known_facts(
    model: LanguageModel, atlas: Atlas, n: int, seed: int, *, neighbors: int = 0, one_token: bool = False
) -> list[Fact]:
    """`n` facts the model answers, each in a random training template that goes on after its subject; drawn with a seed
    from facts whose subject does not give the answer away, all relations alike.

    Args:
        neighbors: at least this many other subjects have the same object.
        one_token: the answer is one token, as in the paper's tracing; a longer answer is read at its own tokens too,
            which no restored state of the prompt reaches.
    """
    source = random.Random(seed)
    rows = list(atlas.facts)
    source.shuffle(rows)
    by_relation: dict[str, list[AtlasFact]] = defaultdict(list)
    for row in rows:
        if row.contains_answer or len(atlas.sharing(row.relation, row.object)) <= neighbors:
            continue
        if not one_token or len(target_ids(model, row.object)) == 1:
            by_relation[row.relation].append(row)
    chosen: list[Fact] = []
    while len(chosen) < n and any(by_relation.values()):
        for relation, left in by_relation.items():
            if left and len(chosen) < n:
                templates = [t for t in atlas.relations[relation].templates if not t.endswith("{}")]
                fact = atlas.as_fact(left.pop(), source.choice(templates))
                if answers(model, [(fact.prompt, fact.target_true)])[0]:
                    chosen.append(fact)
    return chosen


def effects(model: LanguageModel, facts: Sequence[Fact], *, everywhere: bool) -> AverageEffects:
    """Average effects with 10 noise samples at 3 sigma; windows are a quarter of the layers."""
    window = model.n_layers // 4
    configs = (
        TraceConfig(site="resid_post"),
        TraceConfig(site="mlp_out", window=window),
        TraceConfig(site="attn_out", window=window),
    )
    level = measure_noise(model, load_atlas().subjects())
    if everywhere:
        return average_effects(model, facts, configs, level=level)
    return average_effects(model, facts, configs, level=level, positions=("last_subject", "last_token"))


def mlp_over_attention(average: AverageEffects) -> float:
    """Mean effect of MLP windows at the last subject token over attention's, over the windows that leave out layer 0.
    An attention effect below a thousandth counts as a thousandth."""
    config = average.configs[1]
    n_layers = len(average.last_subject())
    without_first = [layer for layer in range(n_layers) if 0 not in config.layers_of(layer, n_layers)]
    mlp = float(np.mean(average.last_subject("mlp_out")[without_first]))
    attention = float(np.mean(average.last_subject("attn_out")[without_first]))
    return mlp / max(attention, 1e-3)


def edits(
    model: LanguageModel,
    atlas: Atlas,
    facts: Sequence[Fact],
    layer: int,
    name: str = DEFAULT_METHOD,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One edit a fact, each on the unedited model, scored by paraphrases and neighbours.

    Args:
        name: the method, one that takes a layer.
        settings: of the method, beside the layer; its defaults for the rest.

    Raises:
        ValueError: if the method or a setting is unknown, or a value is not usable.
    """
    method = get_method(name)
    config = make_config(method.config_type, {"layer": layer, **(settings or {})})
    reports = []
    for fact in facts:
        row = atlas.find(fact.subject, fact.relation)
        assert row is not None
        request = edit_request(atlas, fact, atlas.counterfactual(row))
        wanted = (*request.of_kind("paraphrase"), *request.of_kind("neighborhood"))
        request = replace(request, probes=wanted, generation_prompts=())
        edit = method.compute(model, [request], config)
        reports.append(evaluate(model, apply_edits(model, [edit]), request, distractors=()))
    summary = aggregate(reports)
    return {"n_edits": len(reports), **summary.short()}


def edit_facts(model: LanguageModel, atlas: Atlas, n: int) -> list[Fact]:
    """The facts that the final figures edit."""
    return known_facts(model, atlas, n, seed=1, neighbors=2)


def sweep(model: LanguageModel, atlas: Atlas) -> dict[int, dict[str, Any]]:
    """The edit scores by layer, on a few facts that the final figures do not use."""
    facts = known_facts(model, atlas, SWEEP_EDITS, seed=17, neighbors=2)
    return {layer: edits(model, atlas, facts, layer) for layer in range(model.n_layers)}


def measure(model: LanguageModel, n_facts: int, n_edits: int, layer: int) -> tuple[dict[str, Any], AverageEffects]:
    """Every figure of the table, as one dictionary, with the averages behind it."""
    atlas = load_atlas()
    trained, held_out, n_held_out = recall(model, atlas)
    average = effects(model, known_facts(model, atlas, n_facts, seed=0, one_token=True), everywhere=False)
    figures = {
        "n_facts": average.n_facts,
        "n_recall": 6 * len(atlas.facts),
        "recall": trained,
        "n_recall_heldout": n_held_out,
        "recall_heldout": held_out,
        "ate": average.ate,
        "ate_ci": average.ate_ci(),
        "last_subject_aie": average.last_subject().tolist(),
        "last_token_aie": average.last_token().tolist(),
        "mlp_aie": average.last_subject("mlp_out").tolist(),
        "attn_aie": average.last_subject("attn_out").tolist(),
        "mlp_over_attention": mlp_over_attention(average),
        "in_context": in_context(model, atlas),
        "layer": layer,
        **edits(model, atlas, edit_facts(model, atlas, n_edits), layer),
    }
    return figures, average


def lines(figures: dict[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(name, value, line, whether it is reached) for every figure that has a line to reach."""
    ate, early, late = figures["ate"], figures["last_subject_aie"], figures["last_token_aie"]
    third, quarter = len(early) // 3, len(early) // 4
    at_least = [
        ("recall on training templates", figures["recall"], 0.97),
        ("recall on held-out paraphrases", figures["recall_heldout"], 0.95),
        ("average total effect (ATE)", ate, 0.5),
        ("early site: last subject token, first third, smallest AIE / ATE", min(early[:third]) / ate, 0.55),
        ("late site: last token, last quarter, smallest AIE / ATE", min(late[-quarter:]) / ate, 0.8),
        ("MLP / attention at the last subject token, without layer 0", figures["mlp_over_attention"], 3.0),
        ("edit: ES, P(new) > P(true)", figures["es"], 0.99),
        ("edit: PS", figures["ps"], 0.90),
        ("edit: NS", figures["ns"], 0.80),
        ("edit: ES, greedy", figures["es_greedy"], 0.97),
        ("edit: PS, greedy", figures["ps_greedy"], 0.80),
        ("edit: NS, greedy", figures["ns_greedy"], 0.85),
    ]
    late_early = max(late[:third]) / ate
    rows = [(name, value, line, value >= line) for name, value, line in at_least]
    rows.insert(4, ("late site: last token, first third, largest AIE / ATE", late_early, 0.35, late_early <= 0.35))
    return rows


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    text = ["| figure | value | line | |", "|---|---|---|---|"]
    for name, value, line, reached in lines(figures):
        sign = "≤" if "largest" in name else "≥"
        text.append(f"| {name} | {value:.3f} | {sign} {line:g} | {'reached' if reached else 'missed'} |")
    text += ["", "| layer | " + " | ".join(str(layer) for layer in range(len(figures["last_subject_aie"]))) + " |"]
    text.append("|---" * (len(figures["last_subject_aie"]) + 1) + "|")
    for key, name in (
        ("last_subject_aie", "state, last subject token"),
        ("last_token_aie", "state, last token"),
        ("mlp_aie", "MLP window, last subject token"),
        ("attn_aie", "attention window, last subject token"),
    ):
        text.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in figures[key]) + " |")
    text.append(
        f"\nn = {figures['n_facts']} known facts, 10 noise samples at 3 sigma; n = {figures['n_edits']} edits at layer "
        f"{figures['layer']}; recall over {figures['n_recall']} and {figures['n_recall_heldout']} prompts; "
        f"ATE's 95 % interval {figures['ate_ci'][0]:.3f} to {figures['ate_ci'][1]:.3f}; answered as the context says "
        f"in {figures['in_context']:.0%} of {IN_CONTEXT} cases."
    )
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit status 1 if a line is missed, 2 if a method or setting is not usable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--facts", type=int, default=200, help="known facts to trace")
    parser.add_argument("--edits", type=int, default=100, help="facts to edit")
    parser.add_argument("--layer", type=int, default=BEST_LAYER, help="layer to edit")
    parser.add_argument("--method", help=f"only print the edit scores, of this method; {DEFAULT_METHOD} in the table")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of that method, such as stop_loss=0.05"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--sweep", action="store_true", help="only print the edit scores of every layer")
    parser.add_argument(
        "--figure", type=Path, help="also trace every token and write the averaged heatmaps here (.png)"
    )
    options = parser.parse_args(arguments)
    model = load_from(options)
    if options.method or options.set:
        try:
            name, settings, atlas = options.method or DEFAULT_METHOD, _settings(options.set), load_atlas()
            print(
                json.dumps(edits(model, atlas, edit_facts(model, atlas, options.edits), options.layer, name, settings))
            )
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    if options.sweep:
        for layer, scores in sweep(model, load_atlas()).items():
            print(layer, json.dumps(scores), flush=True)
        return 0
    figures, _ = measure(model, options.facts, options.edits, options.layer)
    print(json.dumps(figures) if options.json else table(figures), flush=True)
    if options.figure:
        from tracing.plots.paper import average_figure

        facts = known_facts(model, load_atlas(), options.facts, seed=0, one_token=True)
        everywhere = effects(model, facts, everywhere=True)
        average_figure(everywhere).savefig(options.figure, dpi=200)
    return 0 if all(reached for *_, reached in lines(figures)) else 1


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE; numbers are read as such.

    Raises:
        ValueError: if one has no equals sign.
    """
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is no setting; write NAME=VALUE, such as stop_loss=0.05")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


if __name__ == "__main__":
    sys.exit(main())
