"""`evaluate`: both models, every prompt, all five metrics."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from facts import EditRequest
from facts.watch import UNWATCHED, Watch
from metrics.asking.generation import MAX_NEW_TOKENS
from metrics.asking.groups import tests
from metrics.asking.prompts import items_of
from metrics.asking.readings import observe, plan, rows_of
from metrics.definitions import METRICS
from metrics.drift import count_scorable, text_nll
from metrics.efficiency import peak_memory_bytes, stopwatch, weight_change
from metrics.report import EditReport
from metrics.types import Efficiency, Evidence, PromptRow, Settings, TextPair

if TYPE_CHECKING:
    from models import LanguageModel

TEXT_TOKENS = 40
"""Length of the texts shown for generation prompts."""

DISTRACTORS = Settings().distractors


def evaluate(
    base: LanguageModel,
    edited: LanguageModel,
    request: EditRequest,
    *,
    guard_texts: Sequence[str] = (),
    efficiency: Efficiency | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    distractors: Sequence[str] = DISTRACTORS,
    aliases: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    about: Mapping[str, str | int | float] | None = None,
    watch: Watch = UNWATCHED,
) -> EditReport:
    """Score an edit: reliability, generalization, locality, portability and efficiency, before and after.

    Args:
        base: the unedited model; it gives every "before" and decides which prompts count.
        edited: the same model after the edit, made by any method.
        request: the fact, the new answer, and the probes.
        guard_texts: neutral texts for the perplexity guard.
        efficiency: the caller's measurements; missing changed weights, peak memory and evaluation time are added.
        max_new_tokens: token budget of a continuation; raised where an answer needs more.
        distractors: unrelated sentences put before the paraphrases; none: that variant is not measured.
        aliases: other names accepted for an answer, by answer, besides those the probes name themselves.
        seed: of the bootstrap.
        about: kept with the report, such as method and layer.
        watch: a step is one prompt or text on one model, told after every batch.

    Raises:
        facts.watch.Cancelled: when the watch says so.
        ValueError: if the edit prompt, a generation prompt or a neutral text cannot be run, as when the prompt is
            longer than the context.  Probes that cannot be run are left out, with the reason.
    """
    given = tuple((answer, tuple(others)) for answer, others in (aliases or {}).items())
    own = tuple((probe.answer, probe.aliases) for probe in request.probes if probe.aliases)
    settings = Settings(max_new_tokens, tuple(distractors), seed, tuple(dict.fromkeys((*given, *own))))
    with stopwatch() as timer:
        rows, evidence = _run(base, edited, request, guard_texts, settings, watch)
    evidence = replace(evidence, efficiency=_complete(efficiency or Efficiency(), base, edited, timer.seconds))
    return EditReport(
        request=request,
        scores=tuple(score for metric in METRICS.values() for score in metric.scores(evidence)),
        rows=rows,
        efficiency=evidence.efficiency,
        settings=settings,
        model_name=base.name,
        model_revision=base.revision,
        texts=tuple(evidence.texts),
        versions=_versions(),
        about=dict(about or {}),
    )


def _run(
    base: LanguageModel,
    edited: LanguageModel,
    request: EditRequest,
    guard_texts: Sequence[str],
    settings: Settings,
    watch: Watch,
) -> tuple[tuple[PromptRow, ...], Evidence]:
    """Run every forward of the evaluation: a row for each prompt, and the evidence for the metrics."""
    # An edit that puts words before every prompt leaves less room; both models get only prompts that fit both.
    narrow = min(base, edited, key=lambda model: model.max_positions)
    texts_of = [(prompt, TEXT_TOKENS) for prompt in dict.fromkeys(request.generation_prompts)]
    to_run = plan(narrow, items_of(request, settings), settings, texts_of)
    for item, problem in to_run.problems.items():
        if item.kind == "edit":
            raise ValueError(f"the edit prompt cannot be evaluated: {problem}")
    for prompt in request.generation_prompts:
        narrow.encode(prompt)  # raises before the work rather than after it
    tick = _Ticker(to_run.steps() + 2 * count_scorable(base, guard_texts), watch)
    tick(0)
    before = observe(base, to_run, tick, with_bridges=True)
    after = observe(edited, to_run, tick, with_bridges=False)
    room = narrow.max_positions
    before_nll, after_nll = (text_nll(model, guard_texts, tick, room) for model in (base, edited))
    texts = tuple(TextPair(prompt, text, after.texts[prompt]) for prompt, text in before.texts.items())
    rows = rows_of(to_run, before, after, settings, (request.target_new,))
    neutral = list(zip(before_nll, after_nll, strict=True))
    return rows, Evidence(tests(rows, to_run.items), settings.seed, neutral, texts)


def _complete(efficiency: Efficiency, base: LanguageModel, edited: LanguageModel, seconds: float) -> Efficiency:
    """The caller's measurements, with missing ones filled in."""
    changed, total, norm = weight_change(base, edited)
    peak, known = peak_memory_bytes(base.device), efficiency
    return replace(
        known,
        evaluate_seconds=seconds if known.evaluate_seconds is None else known.evaluate_seconds,
        peak_memory_bytes=peak if known.peak_memory_bytes is None else known.peak_memory_bytes,
        parameters_changed=changed if known.parameters_changed is None else known.parameters_changed,
        parameters_total=total if known.parameters_total is None else known.parameters_total,
        delta_norm=norm if known.delta_norm is None else known.delta_norm,
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "nnsight", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # versions are notes, and scoring does not need nnsight
    return versions


class _Ticker:
    """Counts the steps of an evaluation and reports them to its watch."""

    def __init__(self, total: int, watch: Watch) -> None:
        self.done, self.total, self.watch = 0, total, watch

    def __call__(self, steps: int) -> None:
        self.done += steps
        self.watch.step(self.done, self.total)
