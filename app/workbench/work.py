"""The Workbench's jobs: each turns a question into work for a worker thread, which alone imports torch."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from app.server import cache
from app.server.jobs import Work
from app.server.pace import time_forward, token_passes
from app.session.asks import SITES, CompareAsk, EditAsk, FileAsk, LayersAsk, ReadAsk, ScoreAsk, TraceAsk
from facts.watch import Watch

if TYPE_CHECKING:
    from editing import Edit
    from facts import EditRequest
    from models import LanguageModel


def read(ask: ReadAsk) -> Work:
    """Tokens and the model's own answer; the first of these loads the model, and times a forward pass."""
    shelf, paces = cache.shelf(), cache.paces()

    def work(watch: Watch) -> object:
        from app import workflow

        model = shelf.reader(ask.model, watch)
        look = workflow.look(model, ask.prompt, ask.subject, ask.answer, occurrence=ask.occurrence)
        if paces.get(ask.model) is None:
            paces.put(ask.model, time_forward(model, ask.prompt))
        return look

    return work


def trace(ask: TraceAsk) -> Work:
    """One map, or three, and the layer they suggest."""
    shelf, paces = cache.shelf(), cache.paces()

    def work(watch: Watch) -> object:
        from app import workflow
        from facts import Fact

        model = shelf.get(ask.model, watch)
        began = time.perf_counter()
        located = workflow.locate(
            model,
            Fact.from_prompt(ask.prompt, ask.subject, ask.answer, occurrence=ask.occurrence),
            [SITES[code] for code in ask.sites],
            window=ask.window,
            noise=ask.noise,
            samples=ask.samples,
            seed=ask.seed,
            against=ask.against,
            watch=watch,
        )
        seconds, result = time.perf_counter() - began, located.results[0]
        worth = token_passes(len(result.tokens), result.subject_span[0], model.n_layers, ask.samples, len(ask.sites))
        paces.put(ask.model, seconds / worth, ask.sites)
        return located

    return work


def edit(ask: EditAsk | FileAsk) -> Work:
    """Compute an edit, with a check on ordinary text, or read it from a file; nothing is applied."""
    shelf, drawer = cache.shelf(), cache.drawer()

    def work(watch: Watch) -> object:
        model, active = shelf.get(ask.model, watch), drawer.all(ask.active)
        watch.step(0, 0, "computing the edit")
        made = _read_file(model, ask) if isinstance(ask, FileAsk) else _compute(model, ask, active, watch)
        drawer.put(ask.key, made)
        return made

    return work


def _compute(model: LanguageModel, ask: EditAsk, active: list[Edit], watch: Watch) -> Edit:
    from experiments.guard import guarded

    request = _request(model, ask)
    outcome = guarded(
        model,
        [request],
        ask.method,
        config_of(ask),
        active=active,
        roll_back=ask.roll_back,
        watch=watch,
    )
    if outcome.rolled_back:
        raise ValueError(f"rolled back: {outcome.warnings[-1]}")
    # Methods that divide by the denominator warn of a small one themselves.
    told = (
        {"denominator cosine"} if any(d.name == "denominator" and d.warning for d in outcome.edit.diagnostics) else ()
    )
    checks = tuple(check for check in outcome.checks if check.name not in told)
    return dataclasses.replace(outcome.edit, diagnostics=(*outcome.edit.diagnostics, *checks))


def _request(model: LanguageModel, ask: EditAsk) -> EditRequest:
    from app.workflow import request_for

    return request_for(model, ask.prompt, ask.subject, ask.answer, ask.new, occurrence=ask.occurrence)


def config_of(ask: EditAsk) -> dict[str, object]:
    """The fields of the method's config; the name of an uploaded text becomes its place."""
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


def score(ask: ScoreAsk, trace_seconds: float | None) -> Work:
    """Five metrics of a finished edit, with all active ones in the model."""
    shelf, drawer, probes = cache.shelf(), cache.drawer(), ask.probes

    def work(watch: Watch) -> object:
        from app import workflow
        from app.probes import probes_of

        model, (change,) = shelf.get(ask.model, watch), drawer.all([ask.edit])
        watch.step(0, 0, "scoring")
        request = change.requests[0]
        if probes is not None:
            request = dataclasses.replace(request, probes=probes_of(probes, request.probes))
        return workflow.evaluate(
            model,
            change,
            request,
            active=drawer.all(ask.active),
            trace_seconds=trace_seconds,
            watch=watch,
        )

    return work


def every_layer(ask: LayersAsk, located: object) -> Work:
    """The same edit at every layer, beside the trace."""
    shelf, drawer = cache.shelf(), cache.drawer()

    def work(watch: Watch) -> object:
        from app.every_layer import edit_every_layer

        asked, model = ask.edit, shelf.get(ask.edit.model, watch)
        request = _request(model, asked)
        return edit_every_layer(
            model,
            request,
            located,  # type: ignore[arg-type]
            asked.method,
            config_of(asked),
            active=drawer.all(asked.active),
            watch=watch,
        )

    return work


def compare(ask: CompareAsk) -> Work:
    """Two branches side by side."""
    shelf, drawer = cache.shelf(), cache.drawer()

    def work(watch: Watch) -> object:
        from app import side_by_side

        model = shelf.get(ask.model, watch)
        watch.step(0, 0, "comparing")
        return side_by_side.compare(model, drawer.all(ask.left), drawer.all(ask.right), watch=watch)

    return work
