"""The commands of `python -m tracing`: each takes the parsed options and gives a result with its table and figures.

Torch and transformers take seconds to import, so they are imported only after the options were checked.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from facts import Fact
from facts.atlas import load_atlas
from facts.importers import answered, read_facts
from facts.spreadsheet import defused
from facts.watch import Watch
from models.options import load_from
from tracing.cli.options import config_of, usual_window, without_counterfactual
from tracing.cli.output import Maps, Output, Table, shown, shown_difference, shown_maps
from tracing.config import TraceConfig
from tracing.sites import LAYER_SITES
from tracing.storage import read
from tracing.types import TraceResult

if TYPE_CHECKING:
    from models import LanguageModel
    from tracing.corruption import NoiseLevel

SUMMARY = "summary.csv"
TUNED_TEXTS = 256  # prompts of the atlas that a tuned lens is fitted on


def trace(options: argparse.Namespace, watch: Watch) -> Output:
    """Trace one prompt exactly."""
    if options.panels == "all":
        return _panels(options, watch)
    model, fact = _model_and_fact(options)
    from tracing.engine.tracer import causal_trace

    config = _config(options, model, fact)
    return shown(causal_trace(model, fact, config, level=_level(model), watch=watch).by(options.measure))


def _panels(options: argparse.Namespace, watch: Watch) -> Output:
    """Trace states, MLP and attention for one figure."""
    if options.site is not None or options.severed is not None:
        raise ValueError("--panels all traces states, MLP and attention; leave --site and --severed out")
    model, fact = _model_and_fact(options)
    from tracing.engine.tracer import trace_sites

    windows = {site: usual_window(site, model.n_layers) for site in LAYER_SITES}
    if options.window is not None:
        windows |= {"mlp_out": options.window, "attn_out": options.window}
    first = _config(options, model, fact)
    configs = [replace(first, site=site, window=window) for site, window in windows.items()]
    traced = trace_sites(model, fact, configs, level=_level(model), watch=watch)
    return shown_maps(Maps(tuple(traced[site].by(options.measure) for site in LAYER_SITES)))


def lens(options: argparse.Namespace, watch: Watch) -> Output:
    """Read every state with the logit lens or a tuned lens."""
    model, fact = _model_and_fact(options)
    from tracing.lenses.logit import logit_lens
    from tracing.lenses.tuned import TunedLens, fit_tuned_lens, own_texts, tuned_lens

    if not (options.tuned or options.tuned_from):
        return shown(logit_lens(model, fact, target=options.target, top_k=options.top_k))
    if options.tuned_from:
        fitted = TunedLens.load(options.tuned_from)
    else:
        prompts = [fact.prompt for fact in _atlas_facts(TUNED_TEXTS, seed=0)]
        fitted = fit_tuned_lens(model, own_texts(model, prompts), watch=watch)
    if options.save_tuned:
        fitted.save(options.save_tuned)
    return shown(tuned_lens(model, fact, fitted, target=options.target, top_k=options.top_k))


def knockout(options: argparse.Namespace, watch: Watch) -> Output:
    """Cut attention edges from the last position."""
    model, fact = _model_and_fact(options)
    from tracing.lenses.knockout import attention_knockout

    return shown(attention_knockout(model, fact, window=options.window, watch=watch))


def attribution(options: argparse.Namespace, watch: Watch) -> Output:
    """Estimate a map from one backward pass; compute the largest cells exactly if asked."""
    _check_least("verify", options.verify, 0)
    model, fact = _model_and_fact(options)
    from tracing.lenses.attribution import attribution_patching, verify

    config, level = _config(options, model, fact), _level(model)
    if options.neurons:
        return _neurons(model, fact, config, level, options.verify, watch)
    estimates = attribution_patching(model, fact, config, sites=[config.site], level=level, watch=watch)
    output = shown(estimates[config.site])
    if not options.verify:
        return output
    exact = verify(model, fact, output.result, options.verify, level=level)
    return replace(output, table=f"{output.table}\n\nVerified exactly:\n{exact.to_string(index=False)}")


def _neurons(
    model: LanguageModel, fact: Fact, config: TraceConfig, level: NoiseLevel, top: int, watch: Watch
) -> Output:
    """The same for single neurons."""
    from tracing.lenses.neurons import attribute_neurons, verify_neurons

    estimates = attribute_neurons(model, fact, config, level=level, watch=watch)
    output = shown(estimates)
    if not top:
        return output
    exact = verify_neurons(model, fact, estimates, top, level=level)
    return replace(output, table=f"{output.table}\n\nVerified exactly:\n{exact.to_string(index=False)}")


def paths(options: argparse.Namespace, watch: Watch) -> Output:
    """Patch the paths from one state through each later module."""
    model, fact = _model_and_fact(options)
    from tracing.lenses.paths import Node, path_patching

    parts = options.sender.split(":")
    if len(parts) != 3 or not (parts[1] + parts[2].lstrip("-")).isdigit():
        raise ValueError(f"the sender is {options.sender!r}; write site:layer:position, such as mlp_out:3:5")
    pos = int(parts[2])
    pos = pos if pos >= 0 else len(model.encode(fact.prompt)) + pos
    sender = Node(cast(Any, parts[0]), int(parts[1]), pos)
    config, level = _config(options, model, fact), _level(model)
    result = path_patching(model, fact, sender, None, config, through=options.through, level=level, watch=watch)
    return shown(result)


def counterfactuals(options: argparse.Namespace, watch: Watch) -> Output:
    """List subjects of the atlas that can replace the prompt's."""
    _check_least("limit", options.limit, 1)
    model, fact = _model_and_fact(options)
    from tracing.counterfactuals import suggest_counterfactuals

    suggested = suggest_counterfactuals(model, fact, limit=options.limit)
    frame = pd.DataFrame([asdict(subject) for subject in suggested], columns=["subject", "answer", "shared_tokens"])
    text = frame.to_string(index=False) if suggested else f"no subject of the atlas aligns with {fact.subject!r}"
    return Output(Table(frame), text)


def many(options: argparse.Namespace, watch: Watch) -> Output:
    """Trace every fact of a file, save each trace, and write a table."""
    facts, folder = _facts(options), Path(options.folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{options.folder!r} is a file; give a folder for the traces")
    if (folder / SUMMARY).exists() or any(folder.glob("[0-9]*.npz")):  # the table is written last
        raise ValueError(f"{options.folder!r} holds the traces of an earlier run; choose another folder, or remove it")
    model = load_from(options)
    from tracing.engine.tracer import causal_trace

    folder.mkdir(parents=True, exist_ok=True)
    level = _level(model, [fact.subject for fact in facts])
    rows = []
    for number, fact in enumerate(facts):
        result = causal_trace(model, fact, _config(options, model, fact), level=level)
        result.save(folder / f"{number:04d}.npz")
        rows.append({"file": f"{number:04d}.npz"} | _facts_row(result))
        watch.step(number + 1, len(facts))
    frame = pd.DataFrame(rows)
    frame.map(defused).to_csv(folder / SUMMARY, index=False)
    shown = frame.drop(columns="suggested_reason", errors="ignore").to_string(index=False)
    return Output(Table(frame), f"{shown}\n\nTraces and {SUMMARY} written to {folder}")


def _facts_row(result: TraceResult) -> dict[str, Any]:
    """One trace in the table of `facts`."""
    largest, last, suggested = result.largest(), result.last_subject(), result.suggestion()
    return {
        "prompt": result.prompt,
        "answer": result.answer,
        "known": None if result.own_answer else result.answer_is_greedy,
        "clean": result.clean,
        "corrupted": float(result.corrupted.mean()),
        "total_effect": result.total_effect,
        "largest_token": largest.token,
        "largest_position": largest.position,
        "largest_layer": largest.layer,
        "largest_effect": largest.effect,
        "last_subject_layer": None if last is None else last.layer,
        "last_subject_effect": None if last is None else last.effect,
        "last_subject_low": None if last is None else last.low,
        "last_subject_high": None if last is None else last.high,
        "suggested": suggested.layer,
        "suggested_reason": suggested.reason,
    }


def average(options: argparse.Namespace, watch: Watch) -> Output:
    """Average the effects of many facts at several sites."""
    facts, untold = answered(_facts(options), lambda fact: fact, options.facts)
    if untold:
        options.notes = (*options.notes, f"{untold} facts were left out, since the file states no true answer for them")
    model = load_from(options)
    from tracing.counterfactuals import suggest_counterfactuals
    from tracing.engine.averaging import average_effects

    def choose(fact: Fact) -> str | None:
        result = suggest_counterfactuals(model, fact, limit=1)
        return result[0].subject if result else None

    chosen = without_counterfactual(options)
    # a placeholder, every fact gets its own
    changes = {"counterfactual": "chosen for each fact"} if chosen else {}
    configs = []
    for site, severed in [
        *((site, None) for site in options.sites),
        *(("resid_post", module) for module in options.sever),
    ]:
        window = usual_window(site, model.n_layers)
        if options.window is not None and site in ("mlp_out", "attn_out"):
            window = options.window
        configs.append(config_of(options, model.n_layers, site=site, window=window, severed=severed, **changes))
    result = average_effects(
        model,
        facts,
        configs,
        level=_level(model, () if options.facts == "atlas" else [fact.subject for fact in facts]),
        positions=options.positions,
        counterfactual=choose if chosen else None,
        journal=options.journal,
        watch=watch,
    )
    if options.per_fact:
        result.per_fact().map(defused).to_csv(options.per_fact, index=False)
    return shown(result)


def reopen(options: argparse.Namespace, watch: Watch) -> Output:
    """Open a saved result, or several maps."""
    if len(options.path) > 1 or options.difference:
        maps = Maps(tuple(TraceResult.load(path).by(options.measure) for path in options.path))
        return shown_difference(maps) if options.difference else shown_maps(maps)
    (path,) = options.path
    header, _ = read(path)
    kind = str(header["kind"])
    if kind.startswith("engram-trace"):
        return shown(TraceResult.load(path).by(options.measure))
    from tracing.average import AverageEffects
    from tracing.lenses.attribution import AttributionResult
    from tracing.lenses.knockout import KnockoutResult
    from tracing.lenses.logit import LensResult
    from tracing.lenses.neurons import NeuronAttribution
    from tracing.lenses.paths import PathResult

    for result_type in (LensResult, KnockoutResult, AttributionResult, NeuronAttribution, PathResult, AverageEffects):
        if kind == result_type.KIND:
            return shown(result_type.load(path))
    raise ValueError(f"{path!r} holds {kind!r}, which has no table; open it in Python")


def _model_and_fact(options: argparse.Namespace) -> tuple[LanguageModel, Fact]:
    """Load the model and build the fact; a misspelt subject is an error before the model is loaded.

    `options.notes` gets notes on the model's weights and on how the prompt is put to it.
    """
    fact = _fact(options)
    model = load_from(options)
    from models import notes_on

    options.notes = (*model.origin_notes(), *notes_on(model, fact.prompt, fact.subject, fact.start))
    return model, fact


def _fact(options: argparse.Namespace) -> Fact:
    return Fact.from_prompt(options.prompt, options.subject, options.answer, occurrence=options.occurrence)


def _facts(options: argparse.Namespace) -> Sequence[Fact]:
    """Read the facts; `options.notes` gets notes on the file."""
    if options.limit is not None:
        _check_least("limit", options.limit, 1)
    if options.facts == "atlas":
        return _atlas_facts(options.limit, options.facts_seed)
    read = read_facts(options.facts)
    options.notes = read.notes
    return read.facts[: options.limit]


def _check_least(name: str, number: int, least: int) -> None:
    if number < least:  # a slice would count from the end
        raise ValueError(f"{name} is {number}; expected a whole number of at least {least}")


def _atlas_facts(limit: int | None, seed: int) -> list[Fact]:
    atlas = load_atlas()
    rows = list(atlas.facts)
    random.Random(seed).shuffle(rows)
    return [atlas.as_fact(row) for row in rows[:limit]]


def _level(model: LanguageModel, subjects: Sequence[str] = ()) -> NoiseLevel:
    """The spread of the embeddings of these subjects, by default the atlas's."""
    from tracing.corruption import measure_noise

    return measure_noise(model, subjects or load_atlas().subjects())


def _config(options: argparse.Namespace, model: LanguageModel, fact: Fact) -> TraceConfig:
    """The config of the options, with a suggested counterfactual if one is needed and none was given."""
    changes = {"counterfactual": _counterfactual(model, fact)} if without_counterfactual(options) else {}
    return config_of(options, model.n_layers, **changes)


def _counterfactual(model: LanguageModel, fact: Fact) -> str:
    """The first suggestion.

    Raises:
        ValueError: if there is none.
    """
    from tracing.counterfactuals import suggest_counterfactuals

    suggested = suggest_counterfactuals(model, fact, limit=1)
    if not suggested:
        raise ValueError(f"no subject of the atlas aligns with {fact.subject!r}; name one with --counterfactual")
    return suggested[0].subject
