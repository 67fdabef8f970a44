"""The jobs of these tabs, run by worker threads.  Only they import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.server import cache
from app.session.asks import SITES, BreakAsk, DifferenceAsk, KnockoutAsk, LensAsk, PatchAsk, TraceAsk
from app.workbench.work import computed, request_of
from facts.watch import Watch

if TYPE_CHECKING:
    from facts import Fact
    from models import LanguageModel
    from tracing import TraceResult
    from tracing.lenses.knockout import KnockoutResult
    from tracing.lenses.logit import LensResult
    from tracing.lenses.two_prompts import PatchResult

MOST_MOVED = 10
"""Prompts shown of those that an edit will move."""


@dataclass(frozen=True, eq=False)
class Difference:
    """The same trace without and with the active edits."""

    before: tuple[TraceResult, ...]
    after: tuple[TraceResult, ...]


@dataclass(frozen=True)
class Moved:
    """A prompt that an edit moves."""

    prompt: str
    foretold: float
    """Without a unit; only the order means something."""
    nats: float
    """KL of the next token's distribution, without and with the edit."""


def lens(ask: LensAsk, watch: Watch) -> tuple[LensResult, ...]:
    """The logit lens on the unedited model and, where edits are active, on the edited one."""
    from editing import apply_edits
    from tracing.lenses.logit import logit_lens

    model, fact = cache.shelf().get(ask.model, watch), _fact(ask)
    watch.step(0, 0, "reading every state")
    models = [model, *([apply_edits(model, cache.drawer().all(ask.active))] if ask.active else [])]
    fact = replace(fact, target_true=ask.answer or _own(model, ask.prompt))
    return tuple(logit_lens(each, fact, target=ask.new) for each in models)


def knockout(ask: KnockoutAsk, watch: Watch) -> KnockoutResult:
    """Attention edges cut, window by window."""
    from tracing.lenses.knockout import attention_knockout

    model = cache.shelf().get(ask.model, watch)
    watch.step(0, 0, "cutting attention")
    return attention_knockout(model, _fact(ask), window=ask.window, watch=watch)


def difference(ask: DifferenceAsk, watch: Watch) -> Difference:
    """Two traces, of the unedited and of the edited model, with the same noise."""
    from editing import apply_edits

    trace = ask.trace
    model = cache.shelf().get(trace.model, watch)
    edited = apply_edits(model, cache.drawer().all(ask.active))
    true = trace.answer or _own(model, trace.prompt)
    answers = {"own": (true, ask.new), "true": (true, true), "new": (ask.new, ask.new)}[ask.about]
    before = _traced(model, replace(trace, answer=answers[0]), watch.part(0, 1, 2))
    after = _traced(edited, replace(trace, answer=answers[1]), watch.part(1, 2, 2))
    return Difference(before, after)


def _traced(model: LanguageModel, ask: TraceAsk, watch: Watch) -> tuple[TraceResult, ...]:
    from app import workflow

    return workflow.locate(
        model,
        _fact(ask),
        [SITES[code] for code in ask.sites],
        window=ask.window,
        noise=ask.noise,
        samples=ask.samples,
        seed=ask.seed,
        watch=watch,
    ).results


def patch(ask: PatchAsk, watch: Watch) -> PatchResult:
    """States of one prompt written into the run of another."""
    from tracing.lenses.two_prompts import patch_between

    model = cache.shelf().get(ask.model, watch)
    pairs = ask.pairs or None
    return patch_between(model, ask.source, ask.base, site=SITES[ask.site], pairs=pairs, watch=watch)  # type: ignore[arg-type]


def breaks(ask: BreakAsk, watch: Watch) -> tuple[Moved, ...]:
    """The prompts that an edit will move most, foretold from keys; and how far it really moves them."""
    from editing.forecast import Forecaster, bystanders

    model = cache.shelf().get(ask.edit.model, watch)
    edit = cache.drawer().get(ask.edit.key) or computed(ask.edit, watch.part(0, 3, 4))
    forecaster = Forecaster(model, bystanders(request_of(model, ask.edit)))
    most = forecaster.foretell(edit, watch.part(3, 4, 4))[:MOST_MOVED]
    nats = forecaster.measure(edit, [one.prompt for one in most], watch.part(3, 4, 4))
    return tuple(Moved(one.prompt, one.foretold, nats[one.prompt]) for one in most)


def _fact(ask: LensAsk | KnockoutAsk | TraceAsk) -> Fact:
    from facts import Fact

    return Fact.from_prompt(ask.prompt, ask.subject, ask.answer, occurrence=ask.occurrence)


def _own(model: LanguageModel, prompt: str) -> str:
    """The model's own answer."""
    from models import own_answer

    return model.token_strings(own_answer(model, prompt))[0].strip()
