"""The Workbench's jobs, run by worker threads: each answers a question.  Only they import torch."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING

from app.server import cache
from app.server.pace import time_forward, token_passes
from app.session.asks import SITES, CompareAsk, EditAsk, FileAsk, LayersAsk, ReadAsk, ScoreAsk, TraceAsk
from facts.watch import Watch

if TYPE_CHECKING:
    from app.every_layer import EveryLayer
    from app.first_look import FirstLook
    from app.side_by_side import Comparison
    from app.workflow import Located
    from editing import Edit
    from facts import EditRequest
    from metrics import EditReport
    from models import LanguageModel

WORTH_SHOWING = 2e11
"""Products of a trace, about, from which on its first noise sample is shown while the others run: a second or two.

It must not depend on the time: samples that are run apart may differ in the last digit, and a link gives the same map
on any server.
"""


def read(ask: ReadAsk, watch: Watch) -> FirstLook:
    """Tokens and the model's own answer; the first of these loads the model, and times a forward pass."""
    from app.first_look import look

    model = cache.shelf().reader(ask.model, watch)
    seen = look(model, ask.prompt, ask.subject, ask.answer, occurrence=ask.occurrence)
    if cache.paces().get(ask.model) is None:
        cache.paces().put(ask.model, time_forward(model, ask.prompt))
        cache.runner().submit(f"prepare-{ask.model}", "Preparing", partial(prepare, ask.model), lane="quick")
    return seen


def load(key: str, watch: Watch) -> None:
    """Load a model again that gave way to others after its prompt was read."""
    cache.shelf().get(key, watch)


def prepare(key: str, watch: Watch) -> None:
    """What the first trace of a model would wait for: its packages, and whether packed runs are exact on it."""
    from app import workflow  # noqa: F401
    from models.forwards.hooks import run_hooked
    from tracing.engine.probe import engine_for

    engine_for(cache.shelf().reader(key, watch), run_hooked)


def trace(ask: TraceAsk, watch: Watch) -> Located:
    """One map, or three, and the layer they suggest; the first noise sample's is shown early where more take long."""
    from app import workflow
    from facts import Fact
    from models.text.tokens import subject_span

    model = cache.shelf().get(ask.model, watch)
    fact = Fact.from_prompt(ask.prompt, ask.subject, ask.answer, occurrence=ask.occurrence)
    n_tokens, first = len(model.encode(fact.prompt)), subject_span(model, fact.prompt, fact.subject, fact.start).start
    passes = token_passes(n_tokens, first, model.n_layers, ask.samples, len(ask.sites))
    if passes * sum(weight.numel() for weight in model.module.parameters()) < WORTH_SHOWING:
        watch = dataclasses.replace(watch, show=None)
    began = time.perf_counter()
    located = workflow.locate(
        model,
        fact,
        [SITES[code] for code in ask.sites],
        window=ask.window,
        noise=ask.noise,
        samples=ask.samples,
        seed=ask.seed,
        against=ask.against,
        watch=watch,
    )
    cache.paces().put(ask.model, (time.perf_counter() - began) / passes, ask.sites)
    return located


def edit(ask: EditAsk | FileAsk, watch: Watch) -> Edit:
    """Compute an edit, with a check on ordinary text, or read it from a file; nothing is applied."""
    if isinstance(ask, EditAsk):
        return computed(ask, watch)
    model = cache.shelf().get(ask.model, watch)
    watch.step(0, 0, "reading the file")
    made = _read_file(model, ask)
    cache.drawer().put(ask.key, made)
    return made


def computed(ask: EditAsk, watch: Watch) -> Edit:
    """Compute an edit, with a check on ordinary text, and keep it; nothing is applied."""
    model, active = cache.shelf().get(ask.model, watch), cache.drawer().all(ask.active)
    watch.step(0, 0, "computing the edit")
    made = _compute(model, ask, active, watch)
    cache.drawer().put(ask.key, made)
    return made


def _compute(model: LanguageModel, ask: EditAsk, active: list[Edit], watch: Watch) -> Edit:
    from experiments.guard import guarded

    request, config = request_of(model, ask), config_of(ask)
    outcome = guarded(model, [request], ask.method, config, active=active, roll_back=ask.roll_back, watch=watch)
    if outcome.rolled_back:
        raise ValueError(f"rolled back: {outcome.warnings[-1]}")
    # Methods that divide by the denominator warn of a small one themselves.
    diagnostics = outcome.edit.diagnostics
    told = {"denominator cosine"} if any(d.name == "denominator" and d.warning for d in diagnostics) else ()
    checks = tuple(check for check in outcome.checks if check.name not in told)
    return dataclasses.replace(outcome.edit, diagnostics=(*diagnostics, *checks))


def request_of(model: LanguageModel, ask: EditAsk) -> EditRequest:
    """The request of an edit."""
    from app.workflow import request_for

    return request_for(model, ask.prompt, ask.subject, ask.answer, ask.new, occurrence=ask.occurrence)


def config_of(ask: EditAsk) -> dict[str, object]:
    """The fields of the method's config; the name of an uploaded text becomes its path."""
    config = dict(ask.config)
    if config.get("corpus"):
        config["corpus"] = str(cache.uploads().path(str(config["corpus"])))
    return config


def _read_file(model: LanguageModel, ask: FileAsk) -> Edit:
    """The edit of a file, tried on the model.

    Raises:
        ValueError: if the file is not an edit, or is one for another model.
    """
    from editing import apply_edits, load_edit

    path = cache.uploads().path(ask.file)
    try:
        read = load_edit(path)
    except ValueError as error:
        raise ValueError(str(error).replace(repr(str(path)), "the file")) from None
    if ask.forced:
        read = dataclasses.replace(read, model_revision=model.revision)
    apply_edits(model, [read])
    return read


def score(ask: ScoreAsk, trace_seconds: float | None, watch: Watch) -> EditReport:
    """Five metrics of a finished edit, with all active ones in the model."""
    from app import workflow
    from app.probes import probes_of

    model, (change,) = cache.shelf().get(ask.model, watch), cache.drawer().all([ask.edit])
    watch.step(0, 0, "scoring")
    request, active = change.requests[0], cache.drawer().all(ask.active)
    if ask.probes is not None:
        request = dataclasses.replace(request, probes=probes_of(ask.probes, request.probes))
    return workflow.evaluate(model, change, request, active=active, trace_seconds=trace_seconds, watch=watch)


def every_layer(ask: LayersAsk, located: Located, watch: Watch) -> EveryLayer:
    """The same edit at every layer, beside the trace."""
    from app.every_layer import edit_every_layer

    edit, model = ask.edit, cache.shelf().get(ask.edit.model, watch)
    request, active = request_of(model, edit), cache.drawer().all(edit.active)
    return edit_every_layer(model, request, located, edit.method, config_of(edit), active=active, watch=watch)


def compare(ask: CompareAsk, watch: Watch) -> Comparison:
    """Two branches side by side."""
    from app import side_by_side

    model, drawer = cache.shelf().get(ask.model, watch), cache.drawer()
    watch.step(0, 0, "comparing")
    return side_by_side.compare(model, drawer.all(ask.left), drawer.all(ask.right), watch=watch)
