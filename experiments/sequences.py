"""Edits made one after the other on one model.

edits_in_turn   the loop: one edit at a time, on top of those before
run_sequence    the loop with measurements: success when made, at the end and in between, perplexity of ordinary text
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from editing import apply_edits
from editing.applied.view import EditedModel
from editing.configs import make_config
from editing.registry import DEFAULT_METHOD, get_method
from experiments.guard import guarded, ordinary_texts
from experiments.places import shown_name
from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from metrics.sequence import Held, Point, SequenceReport, held, kept_answers, summed, text_perplexity
from models import LanguageModel


@dataclass(frozen=True, eq=False)
class Step:
    """One edit of a sequence."""

    batch: range
    """Indices of its requests in the sequence."""
    view: EditedModel
    """The model with all edits that were made and kept so far."""
    failed: str = ""
    """Why no edit could be computed, as may happen on a model that earlier edits broke."""
    rolled_back: str = ""
    """Why it was rolled back."""


@dataclass(frozen=True)
class RollBack:
    """Roll an edit back if it more than doubles the perplexity of these texts."""

    texts: tuple[str, ...]
    perplexity: float | None
    """Of the texts in the unedited model; comparing with that one also catches slow decay."""


def edits_in_turn(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str = DEFAULT_METHOD,
    config: Any | Mapping[str, Any] | None = None,
    *,
    batch_size: int = 1,
    roll_back: RollBack | None = None,
    watch: Watch = UNWATCHED,
) -> Iterator[Step]:
    """Make the edits in turn, each computed on the model with the edits before it; yields a step for each.

    A request whose edit cannot be computed is skipped.

    Args:
        batch_size: requests computed together, for methods that take several.

    Raises:
        ValueError: before the first step, if there is no request, the batch size is not positive, the method is unknown
            or does not take batches, or a setting is out of range.
        facts.watch.Cancelled: when the watch says so.
    """
    config = _checked(requests, method, config, batch_size)
    return _steps(model, tuple(requests), method, config, batch_size, roll_back, watch)


def _checked(requests: Sequence[EditRequest], method: str, config: Any, batch_size: int) -> Any:
    """The method's config, after checking that such a sequence can be made."""
    chosen = get_method(method)
    if not requests or batch_size < 1:
        raise ValueError(f"{len(requests)} requests in batches of {batch_size}; expected at least 1 of each")
    if batch_size > 1 and not chosen.batch:
        raise ValueError(f"{chosen.title} takes one request at a time; set batch_size to 1")
    if isinstance(config, Mapping) or config is None:
        return make_config(chosen.config_type, config or {})
    return config


def _steps(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    method: str,
    config: Any,
    batch_size: int,
    roll_back: RollBack | None,
    watch: Watch,
) -> Iterator[Step]:
    view = apply_edits(model, [])
    quiet = Watch(cancelled=watch.cancelled)  # progress is counted in requests
    for start in range(0, len(requests), batch_size):
        watch.check()
        batch = range(start, min(start + batch_size, len(requests)))
        group = [requests[index] for index in batch]
        try:
            made = guarded(
                view,
                group,
                method,
                config,
                guard_texts=roll_back.texts if roll_back else (),
                perplexity_before=roll_back.perplexity if roll_back else None,
                roll_back=True,
                watch=quiet,
            )
        except ValueError as error:
            yield Step(batch, view, str(error))
            continue
        view = made.view
        yield Step(batch, view, "", made.warnings[-1] if made.rolled_back else "")


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
    watch: Watch = UNWATCHED,
) -> SequenceReport:
    """Make the edits in turn, each on top of the ones before, and measure in between.

    Args:
        every: edits between two points of the curve; the last point is always measured.
        batch_size: requests computed together, for methods that take several.
        roll_back: undo an edit if perplexity shows that it broke the model.
        guard_texts: whose perplexity is measured; by default documents of the bundled corpus.
        watch: a step is one request.

    Raises:
        ValueError: as `edits_in_turn`, and if `every` is not positive.
        facts.watch.Cancelled: when the watch says so.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected at least 1 edit between two points")
    settings: Any = _checked(requests, method, config, batch_size)
    began = perf_counter()
    texts = tuple(ordinary_texts() if guard_texts is None else guard_texts)
    course = _Course(model, tuple(requests), texts)
    limit = RollBack(texts, course.points[0].perplexity) if roll_back else None
    for step in edits_in_turn(model, requests, method, settings, batch_size=batch_size, roll_back=limit, watch=watch):
        course.note(step)
        done = step.batch.stop
        if done - course.points[-1].n_edits >= every or done == len(requests):
            course.measure(done)
        watch.step(done, len(requests))
    return SequenceReport(
        method=method,
        config=dataclasses.asdict(settings),
        requests=course.requests,
        immediate=tuple(course.immediate),
        final=tuple(course.final),
        points=tuple(course.points),
        failed=tuple(course.failed),
        rolled_back=tuple(course.rolled_back),
        seconds=perf_counter() - began,
        model=shown_name(model.name),
        model_revision=model.revision,
        batch_size=batch_size,
        notes=course.view.notes,
    )


class _Course:
    """Measurements of a sequence so far; fields as in `SequenceReport`."""

    def __init__(self, model: LanguageModel, requests: tuple[EditRequest, ...], texts: Sequence[str]) -> None:
        self.requests, self.texts = requests, texts
        self.view = apply_edits(model, [])
        self.known = kept_answers(model, requests)
        self.immediate: list[Held | None] = [None] * len(requests)
        self.final: list[Held | None] = [None] * len(requests)
        self.failed: list[tuple[int, str]] = []
        self.rolled_back: list[tuple[int, str]] = []
        self.points = [Point(0, summed(held(self.view, requests, self.known)), text_perplexity(self.view, texts))]

    def note(self, step: Step) -> None:
        """Record how a step's requests stand right after it."""
        self.view = step.view
        if step.failed:
            self.failed += [(index, step.failed) for index in step.batch]
        elif step.rolled_back:
            self.rolled_back.append((step.batch.start, step.rolled_back))
        else:
            group = [self.requests[index] for index in step.batch]
            self.immediate[step.batch.start : step.batch.stop] = held(self.view, group, self.known)

    def measure(self, n_done: int) -> None:
        """Add a point to the curve: every edit made so far, and perplexity."""
        made = [index for index in range(n_done) if self.immediate[index] is not None]
        stand = held(self.view, [self.requests[index] for index in made], self.known)
        for index, now in zip(made, stand, strict=True):
            self.final[index] = now
        self.points.append(
            Point(n_done, summed(stand), text_perplexity(self.view, self.texts, self.view.max_positions))
        )
