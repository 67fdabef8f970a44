"""The kind `trace`: one fact, one way of tracing it, one seed.  Settings:

    fact         {"subject", "template", "target_true", "relation"}
    level        the spread of the embeddings, from `level_of`; null to measure it over the whole vocabulary
    positions    null for all, or a list such as ["last_subject", "last_token"]
    only_known   trace only if the model's own answer is the true one; otherwise the result is {"known": false}
    …            every field of `tracing.TraceConfig`: site, window, severed, noise, samples, seed, corruption and so on

The result has `known`, and of a traced fact every field of `tracing.TraceResult`, `effect` [pos, layer] and
`by_category` [category, layer].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from experiments.kinds import Context, check_settings, kind
from experiments.memory import FIXED, PASS, batch_that_fits
from experiments.plan import Spec, digest
from facts import Fact
from tracing.config import TraceConfig

if TYPE_CHECKING:
    from models import LanguageModel
    from tracing.corruption import NoiseLevel
    from tracing.engine.memory import Pass

CONFIG = tuple(knob.name for knob in fields(TraceConfig))
OWN: dict[str, Any] = {"level": None, "positions": None, "only_known": False}


def level_of(level: NoiseLevel, *, with_tokens: bool = False) -> dict[str, Any]:
    """A noise level as a setting.

    Args:
        with_tokens: keep the tokens it was measured on, which the corruptions "multivariate" and "mean" need.
    """
    setting: dict[str, Any] = {"sigma": level.sigma, "source": level.source}
    return setting | {"tokens": list(level.tokens)} if with_tokens else setting


def complete(spec: Spec) -> Spec:
    """The settings with `TraceConfig`'s defaults for those left out.

    Raises:
        ValueError: naming the setting that is unknown or wrong.
    """
    check_settings("a trace", spec, ("fact", *OWN, *CONFIG), ("fact",))
    fact = _fact(spec)
    given = OWN | {name: spec[name] for name in OWN if name in spec}
    return {"fact": asdict(fact), **given, **asdict(_config(spec))}


def by_fact(spec: Spec) -> str:
    """Group key: the traces of one fact share the model's own answer."""
    return digest(spec["fact"])


def least_bytes(model: LanguageModel, spec: Spec) -> int:
    """Bytes of a pass with the configured batch size, or with one row: the batch shrinks where memory is short."""
    return FIXED + PASS * (spec.get("batch_size") or 1) * _row(model, _fact(spec)).bytes(model)


def smaller_batch(model: LanguageModel, facts: Sequence[Fact], context: Context) -> int | None:
    """A batch size that fits in memory, or None where the tracer's own does.

    Another batch size may change last bits, so it is changed only where memory is short, and the note `batch_rows` says
    so.
    """
    from tracing.engine.memory import CPU_POSITIONS

    row = max((_row(model, fact) for fact in facts), key=lambda each: each.positions)
    usual = max(1, CPU_POSITIONS // row.positions)
    rows = batch_that_fits(row.bytes(model), model.device, context.share, context.halvings, usual)
    if rows == usual:
        return None
    context.notes["batch_rows"] = rows
    return rows


@kind("trace", version=1, complete=complete, group=by_fact, estimate_bytes=least_bytes)
def trace(model: LanguageModel, spec: Spec, context: Context) -> dict[str, Any]:
    """Trace one fact in one way."""
    from tracing.average import by_category
    from tracing.corruption import NoiseLevel, measure_noise
    from tracing.engine.averaging import knows
    from tracing.engine.question import ask
    from tracing.engine.tracer import causal_trace

    fact, config = _fact(spec), _config(spec)
    known = context.memo("known", lambda: knows(model, ask(model, fact)))
    if spec["only_known"] and not known:
        return {"known": False}
    given = spec["level"]
    if given is None:
        level = context.keep("level", lambda: measure_noise(model))
    else:
        level = NoiseLevel(given["sigma"], given["source"], tuple(given.get("tokens", ())))
    config = replace(config, batch_size=config.batch_size or smaller_batch(model, [fact], context))
    result = causal_trace(model, fact, config, level=level, positions=spec["positions"], watch=context.watch)
    kept = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("config", "others")}
    return {
        "known": known,
        **kept,
        "total_effect": result.total_effect,
        "effect": result.indirect_effect,
        "by_category": by_category(result),
    }


def _fact(spec: Spec) -> Fact:
    try:
        return Fact(**spec["fact"])
    except TypeError:
        raise ValueError(
            f"the fact is {spec['fact']!r}; expected subject, template, target_true and, if there is one, relation"
        ) from None


def _config(spec: Spec) -> TraceConfig:
    return TraceConfig(**{name: spec[name] for name in CONFIG if name in spec})


def _row(model: LanguageModel, fact: Fact) -> Pass:
    """A pass of one row with the whole prompt and its answer."""
    from models import target_ids
    from tracing.engine.memory import Pass

    prompt = len(model.encode(fact.prompt))
    answer = len(target_ids(model, fact.target_true, fact.prompt)) if fact.target_true.strip() else 1
    length = prompt + answer
    return Pass(1, length, length, answer)
