"""A run, as the page Runs shows it: one map of a trace, or the scores of one edit.

A run of this session is made from its result here; one from a file is read and checked in `app/runs/files.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from app.server.jobs import job_key
from tracing.sites import LAYER_SITES, SITE_NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics import EditReport, Score
    from tracing import TraceResult

SITES: dict[str, str] = {site: SITE_NAMES[site].short for site in LAYER_SITES}
LOWER_IS_BETTER = ("kl", "rank")
"""Measures that a restored state lowers."""
NO_SETTING = ("site", "samples", "batch_size")
"""Fields of a trace's config that are no setting of the map, or are shown by themselves."""
COMPARED_SETTINGS = ("max_new_tokens", "distractors")
"""Settings of an evaluation that have to be the same before two edits' numbers are compared."""
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class _Run:
    source: TraceResult | EditReport | str
    """The result, or the text of the file."""

    @cached_property
    def key(self) -> str:
        """The same for the same content, whether it comes from this session or from a file."""
        return job_key("run", [str(getattr(self, field.name)) for field in fields(self) if field.name != "source"])

    @property
    def text(self) -> str:
        """The run as JSON, for a file."""
        return self.source if isinstance(self.source, str) else self.source.to_json()


@dataclass(frozen=True, eq=False)
class TraceRun(_Run):
    """One map."""

    model: str
    revision: str
    prompt: str
    subject: str
    answer: str
    site: str
    """A name of `SITES`."""
    measure: str
    settings: Mapping[str, str]
    """Window, noise and the other settings, as text."""
    tokens: tuple[str, ...]
    subject_span: tuple[int, int]
    """Half-open token positions of the subject."""
    samples: int
    clean: float
    corrupted: float
    """Mean over the noise samples."""
    effect: Rows
    """[token][layer], the mean indirect effect; NaN where it was not measured."""
    low: Rows
    high: Rows
    """[token][layer], the ends of its 95 % interval; NaN for one sample."""

    @property
    def total(self) -> float:
        """Total effect: what the corruption took away."""
        return self.clean - self.corrupted

    @property
    def peak(self) -> tuple[int, int]:
        """(token, layer) of the largest effect at the last subject token."""
        return self._largest([self.subject_span[1] - 1])

    @property
    def largest(self) -> tuple[int, int]:
        """(token, layer) of the largest effect before the last token, where a late state restores any answer."""
        return self._largest(list(range(len(self.tokens) - 1)) or [0])

    def _largest(self, positions: list[int]) -> tuple[int, int]:
        cells = [(pos, layer) for pos in positions for layer, value in enumerate(self.effect[pos]) if value == value]
        best = min if self.measure in LOWER_IS_BETTER else max
        return best(cells, key=lambda cell: self.effect[cell[0]][cell[1]], default=(positions[-1], 0))

    @property
    def title(self) -> str:
        """Prompt and site."""
        return f"{self.prompt} ({SITES[self.site]})"


@dataclass(frozen=True)
class RunScore:
    """One number of an edit."""

    name: str
    metric: str
    label: str
    headline: bool
    before: float | None
    after: float | None
    ci: tuple[float, float] | None
    n: int
    unit: str
    protocol: str
    definition: str
    reason: str
    """Why it was not measured."""

    @property
    def change(self) -> float | None:
        """After less before."""
        return None if self.after is None or self.before is None else self.after - self.before


@dataclass(frozen=True, eq=False)
class EditRun(_Run):
    """The scores of one edit."""

    model: str
    revision: str
    protocol: str
    seed: int
    prompt: str
    subject: str
    old: str
    new: str
    method: str
    layer: str
    """A number; empty where the method has no layer."""
    way: str
    """The values of `COMPARED_SETTINGS`."""
    scores: tuple[RunScore, ...]

    @property
    def title(self) -> str:
        """Prompt, new answer, method and layer."""
        where = f", layer {self.layer}" if self.layer else ""
        return f"{self.prompt} → {self.new} ({self.method}{where})"

    def headline(self, metric: str) -> RunScore | None:
        """The score shown first for a metric."""
        return next((score for score in self.scores if score.metric == metric and score.headline), None)


Run = TraceRun | EditRun


def trace_run(result: TraceResult) -> TraceRun:
    """The run of one map."""
    low, high = result.ci()
    return TraceRun(
        source=result,
        model=result.model_name,
        revision=result.revision,
        prompt=result.prompt,
        subject=result.subject,
        answer=result.answer,
        site=result.config.site,
        measure=result.measure,
        settings=settings_of(asdict(result.config)),
        tokens=result.tokens,
        subject_span=result.subject_span,
        samples=len(result.corrupted),
        clean=result.clean,
        corrupted=math.fsum(result.corrupted) / len(result.corrupted),
        effect=_rows(result.indirect_effect),
        low=_rows(low),
        high=_rows(high),
    )


def edit_run(report: EditReport) -> EditRun:
    """The run of one evaluated edit."""
    request, about, settings = report.request, report.about, asdict(report.settings)
    return EditRun(
        source=report,
        model=report.model_name,
        revision=report.model_revision,
        protocol=report.protocol,
        seed=report.seed,
        prompt=request.fact.prompt,
        subject=request.fact.subject,
        old=request.fact.target_true,
        new=request.target_new,
        method=str(about.get("method", "?")),
        layer=layer_of(about),
        way=way_of(settings),
        scores=tuple(_score(score, score.name == report.headline(score.metric).name) for score in report.scores),
    )


def settings_of(config: Mapping[str, object]) -> dict[str, str]:
    """A trace's settings by name, as text."""
    return {name: _words(value) for name, value in config.items() if name not in NO_SETTING}


def layer_of(about: Mapping[str, object]) -> str:
    """The layer an edit was made at; empty where its method has none."""
    layer = _words(about.get("layer", "-"))
    return "" if layer == "-" else layer


def way_of(settings: Mapping[str, object]) -> str:
    """The values of `COMPARED_SETTINGS`."""
    return " ".join(_words(settings[name]) for name in COMPARED_SETTINGS if name in settings)


def _score(score: Score, headline: bool) -> RunScore:
    return RunScore(
        score.name,
        score.metric,
        score.label,
        headline,
        _finite(score.before),
        _finite(score.value),
        score.ci,
        score.n,
        score.unit,
        score.protocol,
        score.definition,
        score.reason,
    )


def _words(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:200].strip('"')


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rows(values: NDArray[np.float32]) -> Rows:
    return tuple(map(tuple, values.tolist()))
