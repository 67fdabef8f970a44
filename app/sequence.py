"""Edits one after the other, and the guard that watches the model while they are made.  No page needed.

guarded        one more edit: computed, checked, applied; taken out again where it breaks the model and that was asked
run_sequence   many: success when made, at the end and in between, perplexity after every few
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from editing import Diagnostic, Edit, apply_edits
from editing.configs import make_config
from editing.edit import EditCancelled
from editing.preflight import after_computing, before_computing
from editing.registry import DEFAULT_METHOD, get_method
from editing.view import on_base
from facts import EditRequest
from metrics.sequence import Held, Point, SequenceReport, held, kept_answers, summed, text_perplexity
from models import LanguageModel
from models.reference.corpus import sample_texts

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

GUARD_TEXTS, GUARD_SEED = 20, 7
"""Documents of the bundled corpus whose perplexity is watched."""
BROKEN = 2.0
"""An edit that makes ordinary text this many times as surprising is said to have broken the model."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """An edit with what the guard saw."""

    edit: Edit
    view: LanguageModel
    """With the edit; without it where it was rolled back."""
    checks: tuple[Diagnostic, ...]
    rolled_back: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader should be told, a sentence each."""
        return tuple(check.warning for check in self.checks if check.warning)


def guarded(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    active: Sequence[Edit] = (),
    guard_texts: Sequence[str] | None = None,
    perplexity_before: float | None = None,
    roll_back: bool = False,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Guarded:
    """Compute an edit on top of those active and look for signs of collapse.

    Args:
        guard_texts: whose perplexity is watched; by default documents of the bundled corpus.
        perplexity_before: of those texts in the model with `active`, where the caller knows it.
        roll_back: leave the edit out of the view where the model is broken by it.

    Raises:
        ValueError: if the method is unknown, a setting out of range, or a request does not fit the model.
        editing.EditCancelled: when `cancelled` said so.
    """
    chosen = get_method(method)
    if isinstance(config, Mapping) or config is None:
        config = make_config(chosen.config_type, config or {})
    texts = sample_texts(GUARD_TEXTS, GUARD_SEED) if guard_texts is None else guard_texts
    before = apply_edits(model, active)
    # Rank-one updates are the ones that a first-token subject breaks.
    early = before_computing(model, requests) if chosen.family == "locate-then-edit" else ()
    made = chosen.compute(before, list(requests), config, active=before.edits, progress=progress, cancelled=cancelled)
    edit = on_base(made, model, before.edits)
    after = before.with_edit(edit)
    room = after.max_positions
    if perplexity_before is None or room < before.max_positions:
        perplexity_before = text_perplexity(before, texts, room)
    measured = _perplexity_check(perplexity_before, text_perplexity(after, texts, room), bool(texts))
    checks = (*early, *after_computing(before, edit), *measured)
    broken = any(check.warning for check in measured)
    return Guarded(edit, before if broken and roll_back else after, checks, broken and roll_back)


def _perplexity_check(before: float | None, after: float | None, any_text: bool) -> tuple[Diagnostic, ...]:
    if not any_text or before is None:
        return ()
    ratio = math.inf if after is None else after / before
    warning = ""
    if ratio > BROKEN:
        now = "no finite number" if after is None else f"{after:.3g}"
        warning = (
            f"the perplexity of ordinary text went from {before:.3g} to {now}: the edit breaks the model; undo it, and "
            "try another layer, a weaker setting, or AlphaEdit"
        )
    return (
        Diagnostic("perplexity before", before, "", "Of ordinary text, without this edit."),
        Diagnostic("perplexity after", math.inf if after is None else after, "", "With it.", warning),
    )


def run_sequence(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    every: int = 10,
    batch_size: int = 1,
    roll_back: bool = False,
    guard_texts: Sequence[str] | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> SequenceReport:
    """Make the edits in turn, each on top of the ones before, and measure on the way.

    Args:
        every: edits between two points of the curve; the last point is always measured.
        batch_size: requests computed together, for methods that take several.
        roll_back: take an edit out again where perplexity says that it broke the model.
        progress: called with (requests done, requests in all).

    Raises:
        ValueError: if there is no request, a number is not positive, or the method does not take batches.
        editing.EditCancelled: when `cancelled` said so.
    """
    chosen = get_method(method)
    if not requests or every < 1 or batch_size < 1:
        raise ValueError(
            f"{len(requests)} requests, every {every}, batches of {batch_size}; expected at least 1 of each"
        )
    if batch_size > 1 and not chosen.batch:
        raise ValueError(f"{chosen.title} takes one request at a time; set batch_size to 1")
    if isinstance(config, Mapping) or config is None:
        config = make_config(chosen.config_type, config or {})
    texts = sample_texts(GUARD_TEXTS, GUARD_SEED) if guard_texts is None else guard_texts
    run = _Run(model, tuple(requests), method, config, texts, roll_back)
    began, measured = perf_counter(), 0
    for start in range(0, len(requests), batch_size):
        if cancelled is not None and cancelled():
            raise EditCancelled
        stop = min(start + batch_size, len(requests))
        run.step(range(start, stop), cancelled)
        if stop - measured >= every or stop == len(requests):
            run.measure(stop)
            measured = stop
        if progress is not None:
            progress(stop, len(requests))
    return run.report(perf_counter() - began, batch_size)


class _Run:
    """A sequence on its way."""

    def __init__(
        self,
        model: LanguageModel,
        requests: tuple[EditRequest, ...],
        method: str,
        config: Any,
        texts: Sequence[str],
        roll_back: bool,
    ) -> None:
        self.model, self.requests, self.method, self.config = model, requests, method, config
        self.texts, self.roll_back = texts, roll_back
        self.view = apply_edits(model, [])
        self.known = kept_answers(model, requests)
        self.immediate: list[Held | None] = [None] * len(requests)
        self.final: list[Held | None] = [None] * len(requests)
        self.failed: list[tuple[int, str]] = []
        self.rolled_back: list[tuple[int, str]] = []
        self.points = [Point(0, summed(held(self.view, requests, self.known)), text_perplexity(self.view, texts))]

    def step(self, batch: range, cancelled: Cancelled | None) -> None:
        """One edit, and how its requests stand right after it."""
        asked = [self.requests[index] for index in batch]
        try:
            # Perplexity is watched edit by edit only where it decides something.
            watched = self.texts if self.roll_back else ()
            found = guarded(
                self.model,
                asked,
                self.method,
                self.config,
                active=self.view.edits,
                guard_texts=watched,
                perplexity_before=self.points[0].perplexity,  # slow decay counts as well
                roll_back=self.roll_back,
                cancelled=cancelled,
            )
        except ValueError as error:
            self.failed += [(index, str(error)) for index in batch]
            return
        if found.rolled_back:
            self.rolled_back.append((batch.start, found.warnings[-1]))
            return
        self.view = apply_edits(self.view, [found.edit])
        for index, stands in zip(batch, held(self.view, asked, self.known), strict=True):
            self.immediate[index] = stands

    def measure(self, n_done: int) -> None:
        """A point of the curve: every edit made so far, and perplexity."""
        made = [index for index in range(n_done) if self.immediate[index] is not None]
        stand = held(self.view, [self.requests[index] for index in made], self.known)
        for index, one in zip(made, stand, strict=True):
            self.final[index] = one
        self.points.append(
            Point(n_done, summed(stand), text_perplexity(self.view, self.texts, self.view.max_positions))
        )

    def report(self, seconds: float, batch_size: int) -> SequenceReport:
        """The run so far."""
        return SequenceReport(
            method=self.method,
            config=dataclasses.asdict(self.config),
            requests=self.requests,
            immediate=tuple(self.immediate),
            final=tuple(self.final),
            points=tuple(self.points),
            failed=tuple(self.failed),
            rolled_back=tuple(self.rolled_back),
            seconds=seconds,
            model=self.model.name,
            model_revision=self.model.revision,
            batch_size=batch_size,
            notes=self.view.notes,
        )
