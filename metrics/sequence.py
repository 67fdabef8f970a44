"""Many edits one after the other: does each work when made and at the end, and is the model intact?

Immediate, final and retained success as in lifelong editing (Hartvigsen et al. 2023, section 4, arXiv:2211.11031; Wang
et al. 2024, section 4, arXiv:2405.14768), perplexity of ordinary text as the sign of collapse (Yang et al. 2024,
arXiv:2402.09656).  Answers are free-running and matched as in `metrics.asking.generation`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from facts import EditRequest, Probe
from metrics.asking.generation import continuations, matches
from metrics.drift import text_nll
from metrics.statistics import perplexity

if TYPE_CHECKING:
    from models import LanguageModel

TOKENS = 8
"""Token budget of an answer; longer answers get more."""


@dataclass(frozen=True)
class Count:
    """`right` of `n` prompts."""

    right: int
    n: int

    @property
    def share(self) -> float | None:
        """right / n; None without prompts."""
        return self.right / self.n if self.n else None

    def __add__(self, other: Count) -> Count:
        return Count(self.right + other.right, self.n + other.n)


@dataclass(frozen=True)
class Held:
    """How far one edit holds in a model."""

    reliability: Count
    """The edit prompt."""
    generalization: Count
    """Its paraphrases."""
    locality: Count
    """Neighbours and other facts of the subject that the unedited model answers correctly."""


@dataclass(frozen=True)
class Point:
    """Measurements after some edits, over all edits made so far."""

    n_edits: int
    retained: Held
    """Sums over the edits."""
    perplexity: float | None
    """Of the neutral texts; None where the model gives no finite number or there is no text."""


@dataclass(frozen=True)
class SequenceReport:
    """A run of edits."""

    method: str
    config: Mapping[str, Any]
    requests: tuple[EditRequest, ...]
    immediate: tuple[Held | None, ...]
    """Of each request, right after its own edit; None where no edit could be computed."""
    final: tuple[Held | None, ...]
    """Of each request, after the last edit."""
    points: tuple[Point, ...]
    """The first is the unedited model's."""
    failed: tuple[tuple[int, str], ...] = ()
    """(index of the request, why no edit was made)."""
    rolled_back: tuple[tuple[int, str], ...] = ()
    """(index of the first request of a batch, why its edit was rolled back)."""
    seconds: float = 0.0
    model: str = ""
    model_revision: str = ""
    batch_size: int = 1
    notes: tuple[str, ...] = field(default=())

    def share(self, when: str, what: str) -> float | None:
        """Share of prompts, over all edits that were made.

        Args:
            when: "immediate" or "final".
            what: "reliability", "generalization" or "locality".
        """
        counts = [getattr(held, what) for held in getattr(self, when) if held is not None]
        return sum(counts, Count(0, 0)).share

    @property
    def retention(self) -> float | None:
        """Of the edits that worked when they were made, the share that still works at the end."""
        pairs = [(a, b) for a, b in zip(self.immediate, self.final, strict=True) if a and b and a.reliability.right]
        return sum(b.reliability.right for _, b in pairs) / len(pairs) if pairs else None

    def summary(self) -> dict[str, Any]:
        """The main numbers of the run, ready for JSON."""
        numbers: dict[str, Any] = {
            "method": self.method,
            "n_requests": len(self.requests),
            "n_failed": len(self.failed),
            "n_rolled_back": len(self.rolled_back),
            "batch_size": self.batch_size,
            "retention": self.retention,
            "perplexity_before": self.points[0].perplexity,
            "perplexity_after": self.points[-1].perplexity,
            "seconds": self.seconds,
        }
        for when in ("immediate", "final"):
            for what in ("reliability", "generalization", "locality"):
                numbers[f"{when}_{what}"] = self.share(when, what)
        return numbers

    def to_json(self) -> str:
        """The whole report as one JSON object."""
        whole = dataclasses.asdict(self) | {"summary": self.summary()}
        return json.dumps(whole, ensure_ascii=False, default=str)

    def to_frame(self) -> pd.DataFrame:
        """One line a point: n_edits, reliability, generalization, locality (shares of the edits so far), perplexity."""
        rows = [
            {
                "n_edits": point.n_edits,
                "reliability": point.retained.reliability.share,
                "generalization": point.retained.generalization.share,
                "locality": point.retained.locality.share,
                "perplexity": point.perplexity,
            }
            for point in self.points
        ]
        return pd.DataFrame(rows)


def kept_answers(base: LanguageModel, requests: Sequence[EditRequest]) -> dict[Probe, bool]:
    """Which of the locality probes the unedited model answers correctly; only those can be lost."""
    probes = list(dict.fromkeys(probe for request in requests for probe in _locality(request)))
    said = _said(base, probes)
    return {probe: matches(said[probe.prompt], (probe.answer, *probe.aliases)) for probe in probes}


def held(model: LanguageModel, requests: Sequence[EditRequest], known: Mapping[Probe, bool]) -> list[Held]:
    """How far each request holds in a model, by free-running answers.

    Args:
        known: from `kept_answers`, for at least these requests.

    Raises:
        ValueError: if a prompt does not fit the model.
    """
    probes_of = {request: _probes(request, known) for request in requests}
    said = _said(model, [probe for probes in probes_of.values() for some in probes for probe in some])

    def count(probes: Sequence[Probe], rivals: tuple[str, ...]) -> Count:
        right = sum(matches(said[probe.prompt], (probe.answer, *probe.aliases), rivals) for probe in probes)
        return Count(right, len(probes))

    standings = []
    for request in requests:
        edit, paraphrases, local = probes_of[request]
        true = (request.fact.target_true,) if request.fact.target_true else ()
        standings.append(Held(count(edit, true), count(paraphrases, true), count(local, ())))
    return standings


def summed(each: Sequence[Held]) -> Held:
    """The sum over all edits."""
    return Held(
        sum((held.reliability for held in each), Count(0, 0)),
        sum((held.generalization for held in each), Count(0, 0)),
        sum((held.locality for held in each), Count(0, 0)),
    )


def text_perplexity(model: LanguageModel, texts: Sequence[str], max_positions: int | None = None) -> float | None:
    """exp(nats per token) of all texts together; None without a text or a finite number."""
    pairs = [pair for pair in text_nll(model, texts, max_positions=max_positions) if pair[1]]
    if not pairs or not np.isfinite([nll for nll, _ in pairs]).all():
        return None
    return float(perplexity(np.array(pairs, dtype=np.float64)))


def _probes(
    request: EditRequest, known: Mapping[Probe, bool]
) -> tuple[tuple[Probe, ...], tuple[Probe, ...], tuple[Probe, ...]]:
    edit = (Probe("paraphrase", request.fact.prompt, request.target_new),)
    return edit, request.of_kind("paraphrase"), tuple(probe for probe in _locality(request) if known[probe])


def _locality(request: EditRequest) -> tuple[Probe, ...]:
    return request.of_kind("neighborhood") + request.of_kind("same_subject")


def _said(model: LanguageModel, probes: Sequence[Probe]) -> dict[str, str]:
    budgets: dict[str, int] = {}
    for probe in probes:
        needed = len(model.tokenize(f" {probe.answer}")) + 2
        budgets[probe.prompt] = max(budgets.get(probe.prompt, TOKENS), needed)
    return continuations(model, budgets)
