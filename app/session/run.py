"""A run, as the page Runs shows it: one map of a trace, or the scores of one edit.

A run of this session is made of its result; one from a file of its JSON, by the names in it.  A file may come from
anybody, so every field has a type and a size, and numbers that follow from other fields are computed again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.language.say import say
from app.server.job import job_key
from metrics.definitions import METRICS
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
"""Fields of a trace's config that are shown elsewhere, or do not change the map."""
COMPARED_SETTINGS = ("max_new_tokens", "distractors")
"""Settings of an evaluation that have to be the same before two edits' numbers are compared."""


def _words(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:200].strip('"')


def _settings(config: object) -> object:
    if not isinstance(config, Mapping):
        return config
    return {str(name): _words(value) for name, value in config.items() if name not in NO_SETTING}


def _way(settings: object) -> object:
    if not isinstance(settings, Mapping):
        return settings
    return " ".join(_words(settings[name]) for name in COMPARED_SETTINGS if name in settings)


def _with_nan(grid: list[list[float | None]]) -> list[list[float]]:
    return [[math.nan if value is None else float(value) for value in row] for row in grid]


Text = Annotated[str, Field(max_length=4000)]
Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
Row = Annotated[list[Number | None], Field(min_length=1, max_length=256)]
Grid = Annotated[list[Row], Field(max_length=512), AfterValidator(_with_nan)]
"""[token][layer]; null in a file, and then NaN, where it was not measured."""


class _Checked(BaseModel):
    """Fields of exactly these types; others are passed over."""

    model_config = ConfigDict(
        strict=True, frozen=True, allow_inf_nan=False, validate_by_alias=True, validate_by_name=True
    )


class _Run(_Checked):
    _source: Any = None
    """The result, or the text of the file."""

    def of(self, source: TraceResult | EditReport | str) -> Any:
        """The same run, with its source."""
        self._source = source
        return self

    @property
    def key(self) -> str:
        """The same for the same content, whether it comes from this session or from a file."""
        return job_key("run", self.model_dump())

    @property
    def text(self) -> str:
        """The run as JSON, for a file."""
        return self._source if isinstance(self._source, str) else self._source.to_json()


class TraceRun(_Run):
    """One map: fields of the JSON that `TraceResult.to_json` writes."""

    format: Literal["engram-trace-1", "engram-trace-2"] = Field(exclude=True)
    model: Text = Field(alias="model_name")
    revision: Text
    prompt: Text
    subject: Text
    answer: Text
    site: Literal[tuple(SITES)] = Field(validation_alias=AliasPath("config", "site"))  # type: ignore[valid-type]
    measure: Text = "probability"
    settings: Annotated[dict[str, str], BeforeValidator(_settings)] = Field(alias="config")
    """Window, noise and the other settings, as text."""
    tokens: Annotated[list[Text], Field(max_length=512)]
    subject_span: Annotated[tuple[int, int], Field(strict=False)]
    """Half-open token positions of the subject."""
    clean: Number
    draws: Annotated[list[Number], Field(min_length=1, max_length=1000)] = Field(alias="corrupted")
    """The corrupted runs, one for each noise sample."""
    effect: Grid
    """[token][layer], the mean indirect effect."""
    low: Grid = Field(alias="effect_low")
    high: Grid = Field(alias="effect_high")
    """[token][layer], the ends of its 95 % interval; NaN for one sample."""

    @model_validator(mode="after")
    def _fits(self) -> TraceRun:
        start, stop = self.subject_span
        if not 0 <= start < stop <= len(self.tokens):
            raise ValueError(f"its subject spans tokens {start} to {stop} of {len(self.tokens)}")
        for name, grid in {"effect": self.effect, "effect_low": self.low, "effect_high": self.high}.items():
            if [len(row) for row in grid] != [len(self.effect[0])] * len(self.tokens):
                raise ValueError(f"{name} is not {len(self.tokens)} rows (tokens) of equal length (layers)")
        return self

    @property
    def samples(self) -> int:
        """Noise samples."""
        return len(self.draws)

    @property
    def window(self) -> int:
        """Layers restored together."""
        words = self.settings.get("window", "")
        return int(words) if words.isdecimal() and len(words) < 4 else 1

    @property
    def corrupted(self) -> float:
        """Mean over the noise samples."""
        return math.fsum(self.draws) / len(self.draws)

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


class RunScore(_Checked):
    """One number of an edit."""

    name: Text
    metric: Literal[tuple(METRICS)]  # type: ignore[valid-type]
    label: Text
    headline: bool = False
    before: Number | None = None
    after: Number | None = None
    ci_low: Number | None = None
    ci_high: Number | None = None
    n: int
    unit: Text
    protocol: Text
    definition: Text = ""
    reason: Text = Field("", alias="not_measured")
    """Why it was not measured."""

    @property
    def ci(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        return None if self.ci_low is None or self.ci_high is None else (self.ci_low, self.ci_high)

    @property
    def change(self) -> float | None:
        """After less before."""
        return None if self.after is None or self.before is None else self.after - self.before


class EditRun(_Run):
    """The scores of one edit: fields of the JSON that `EditReport.to_json` writes."""

    model: Text
    revision: Text
    protocol: Text
    seed: int
    template: Text = Field(validation_alias=AliasPath("request", "fact", "template"))
    subject: Text = Field(validation_alias=AliasPath("request", "fact", "subject"))
    old: Text = Field(validation_alias=AliasPath("request", "fact", "target_true"))
    new: Text = Field(validation_alias=AliasPath("request", "target_new"))
    method: Text = Field("?", validation_alias=AliasPath("about", "method"))
    place: int | Text = Field("-", validation_alias=AliasPath("about", "layer"))
    active_edits: int = Field(1, validation_alias=AliasPath("about", "active edits"))
    way: Annotated[Text, BeforeValidator(_way)] = Field(alias="settings")
    """The values of `COMPARED_SETTINGS`."""
    scores: Annotated[list[RunScore], Field(max_length=200)]

    @property
    def prompt(self) -> str:
        """The prompt that was edited."""
        return self.template.replace("{}", self.subject)

    @property
    def layer(self) -> str:
        """The layer that was edited; empty where the method has none."""
        return "" if self.place == "-" else str(self.place)

    @property
    def title(self) -> str:
        """Prompt, new answer, method and layer."""
        where = say(", layer {layer}", layer=self.layer) if self.layer else ""
        return f"{self.prompt} → {self.new} ({self.method}{where})"

    def headline(self, metric: str) -> RunScore | None:
        """The score shown first for a metric."""
        return next((score for score in self.scores if score.metric == metric and score.headline), None)


Run = TraceRun | EditRun


def trace_run(result: TraceResult) -> TraceRun:
    """The run of one map."""
    low, high = result.ci()
    return TraceRun(
        format="engram-trace-2",
        model_name=result.model_name,
        revision=result.revision,
        prompt=result.prompt,
        subject=result.subject,
        answer=result.answer,
        config=asdict(result.config),
        measure=result.measure,
        tokens=list(result.tokens),
        subject_span=result.subject_span,
        clean=result.clean,
        corrupted=result.corrupted.tolist(),
        effect=_rows(result.indirect_effect),
        effect_low=_rows(low),
        effect_high=_rows(high),
    ).of(result)


def edit_run(report: EditReport) -> EditRun:
    """The run of one evaluated edit."""
    return EditRun(
        model=report.model_name,
        revision=report.model_revision,
        protocol=report.protocol,
        seed=report.seed,
        request=asdict(report.request),
        about=dict(report.about),
        settings=asdict(report.settings),
        scores=[_score(score, score == report.headline(score.metric)) for score in report.scores],
    ).of(report)


def _score(score: Score, headline: bool) -> RunScore:
    low, high = map(_finite, score.ci or (None, None))
    return RunScore(
        name=score.name,
        metric=score.metric,
        label=score.label,
        headline=headline,
        before=_finite(score.before),
        after=_finite(score.value),
        ci_low=low,
        ci_high=high,
        n=score.n,
        unit=score.unit,
        protocol=score.protocol,
        definition=score.definition,
        not_measured=score.reason,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rows(values: NDArray[np.float32]) -> list[list[float | None]]:
    return [[_finite(value) for value in row] for row in values.tolist()]
