"""The kind `average`: some facts, each traced in several ways that share its clean and corrupted runs.  Settings:

    facts            a list of {"subject", "template", "target_true", "relation"}
    configs          a list with the fields of `tracing.TraceConfig` that are not left at their defaults, one a map
    level            the spread of the embeddings, from `experiments.cells.trace.level_of`
    positions        null for all, or a list such as ["last_subject", "last_token"]
    counterfactuals  null for noise, or for each fact another subject, which replaces its own

A result holds the effects of its facts; `merged` makes one `tracing.AverageEffects` of many, so that means, intervals
and tests are those of the tracing package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.cells import trace as trace_cells
from experiments.kinds import Context, check_settings, kind
from experiments.places import shown_name
from experiments.plan import Spec, digest
from facts import Fact
from tracing.config import TraceConfig

if TYPE_CHECKING:
    from models import LanguageModel
    from tracing import AverageEffects

NEEDED = ("facts", "configs", "level")
OPTIONAL: dict[str, Any] = {"positions": None, "counterfactuals": None}
_EFFECTS = "effects/"


def complete(spec: Spec) -> Spec:
    """The settings, with `TraceConfig`'s defaults for what the configs leave out.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("an average", spec, (*NEEDED, *OPTIONAL), NEEDED)
    others = spec.get("counterfactuals")
    if others is not None and len(others) != len(spec["facts"]):
        raise ValueError(f"{len(spec['facts'])} facts have {len(others)} counterfactuals; give one for each")
    return OPTIONAL | dict(spec) | {"configs": [asdict(config) for config in configs_of(spec)]}


def configs_of(spec: Spec) -> tuple[TraceConfig, ...]:
    """The ways of tracing a cell asks for.

    Raises:
        ValueError: if a field is unknown or out of range.
    """
    names = {knob.name for knob in fields(TraceConfig)}
    for values in spec["configs"]:
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(f"a trace has no setting {unknown[0]!r}; choose from {', '.join(sorted(names))}")
    return tuple(TraceConfig(**values) for values in spec["configs"])


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """Bytes of one forward pass over the longest prompt, with the configured batch size."""
    rows = max(config.get("batch_size") or 1 for config in spec["configs"])
    return max(trace_cells.least_bytes(model, {"fact": fact, "batch_size": rows}) for fact in spec["facts"])


@kind("average", version=1, complete=complete, group=digest, estimate_bytes=least_bytes)
def average(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Trace the facts."""
    from tracing import NoiseLevel, average_effects
    from tracing.engine.question import ask

    facts = [Fact(**values) for values in spec["facts"]]
    configs = configs_of(spec)
    rows = trace_cells.smaller_batch(model, facts, context)
    if rows is not None:
        configs = tuple(replace(config, batch_size=config.batch_size or rows) for config in configs)
    given, others = spec["level"], spec["counterfactuals"]
    stand_in = None if others is None else dict(zip(facts, others, strict=True)).get
    averages = average_effects(
        model,
        facts,
        configs,
        level=NoiseLevel(given["sigma"], given["source"], tuple(given.get("tokens", ()))),
        positions=spec["positions"],
        counterfactual=stand_in,
        watch=context.watch,
    )
    tokens = sum(ask(model, fact).n_prompt for fact in facts)
    return {
        "model_name": averages.model_name,
        "revision": averages.revision,
        "noise_std": averages.noise_std,
        "noise_source": averages.noise_source,
        "prompts": list(averages.prompts),
        "unknown": list(averages.unknown),
        "unaligned": list(averages.unaligned),
        "states": tokens * model.n_layers * len(configs),
        "clean": averages.clean,
        "corrupted": averages.corrupted,
        **{f"{_EFFECTS}{name}": effects for name, effects in averages.effects.items()},
    }


def merged(
    results: Sequence[Mapping[str, Any]],
    configs: Sequence[TraceConfig],
    *,
    unknown: Sequence[str] = (),
    unaligned: Sequence[str] = (),
) -> AverageEffects:
    """Average the results of many cells that were traced in the same ways.

    Args:
        unknown: prompts left out while planning, since the model does not know the answer.
        unaligned: those for which no counterfactual subject aligns.

    Raises:
        ValueError: if there is no result.
    """
    from tracing import AverageEffects

    if not results:
        raise ValueError("no cell is finished, so there is nothing to average; resume the run")
    first = results[0]
    names = [name for name in first if name.startswith(_EFFECTS)]

    def prompts(name: str) -> tuple[str, ...]:
        return tuple(prompt for result in results for prompt in result[name])

    return AverageEffects(
        configs=tuple(configs),
        model_name=shown_name(first["model_name"]),
        revision=first["revision"],
        noise_std=first["noise_std"],
        noise_source=first["noise_source"],
        prompts=prompts("prompts"),
        unknown=(*unknown, *prompts("unknown")),
        unaligned=(*unaligned, *prompts("unaligned")),
        clean=np.concatenate([result["clean"] for result in results]),
        corrupted=np.concatenate([result["corrupted"] for result in results]),
        effects={
            name.removeprefix(_EFFECTS): np.concatenate([result[name] for result in results])
            for name in sorted(names, key=lambda name: _place(name, configs))
        },
    )


def _place(name: str, configs: Sequence[TraceConfig]) -> int:
    """Index of a map's config."""
    from tracing.average import map_name

    return [map_name(config) for config in configs].index(name.removeprefix(_EFFECTS))
