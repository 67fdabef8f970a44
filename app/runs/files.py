"""Runs as files: the JSON that the Workbench exports, read back with every field checked.  Text and numbers only.

A trace comes from Export, the scores of an edit from Report.  A file may come from anybody, so every field is checked
by type and size, and numbers that follow from other fields are computed again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.runs.two_runs import overview
from app.session.run import EditRun, Rows, Run, RunScore, TraceRun, layer_of, settings_of, way_of
from app.session.runs import add
from metrics.definitions import METRICS

LARGEST = 2 * 1024 * 1024
"""Bytes of one file."""
Text = Annotated[str, Field(max_length=4000)]
Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
Grid = Annotated[list[Annotated[list[Number | None], Field(min_length=1, max_length=256)]], Field(max_length=512)]
"""[token][layer]; null where a state was not measured."""


class _File(BaseModel):
    """Fields of exactly these types; what the page does not show is passed over."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _TraceConfig(_File):
    model_config = ConfigDict(strict=True, extra="allow")
    site: Literal["resid_post", "mlp_out", "attn_out"]


class _Trace(_File):
    """What `TraceResult.to_json` writes."""

    format: Literal["engram-trace-1", "engram-trace-2"]
    config: _TraceConfig
    model_name: Text
    revision: Text
    prompt: Text
    subject: Text
    answer: Text
    measure: Text = "probability"
    tokens: Annotated[list[Text], Field(max_length=512)]
    subject_span: Annotated[tuple[int, int], Field(strict=False)]  # a list in JSON
    clean: Number
    corrupted: Annotated[list[Number], Field(min_length=1, max_length=1000)]
    effect: Grid
    effect_low: Grid
    effect_high: Grid

    @model_validator(mode="after")
    def _fits(self) -> _Trace:
        start, stop = self.subject_span
        if not 0 <= start < stop <= len(self.tokens):
            raise ValueError(f"its subject spans tokens {start} to {stop} of {len(self.tokens)}")
        for name in ("effect", "effect_low", "effect_high"):
            if [len(row) for row in getattr(self, name)] != [len(self.effect[0])] * len(self.tokens):
                raise ValueError(f"{name} is not {len(self.tokens)} rows (tokens) of equal length (layers)")
        return self

    def run(self, text: str) -> TraceRun:
        """As the page shows it."""
        return TraceRun(
            source=text,
            model=self.model_name,
            revision=self.revision,
            prompt=self.prompt,
            subject=self.subject,
            answer=self.answer,
            site=self.config.site,
            measure=self.measure,
            settings=settings_of(self.config.model_dump()),
            tokens=tuple(self.tokens),
            subject_span=self.subject_span,
            samples=len(self.corrupted),
            clean=self.clean,
            corrupted=math.fsum(self.corrupted) / len(self.corrupted),
            effect=_rows(self.effect),
            low=_rows(self.effect_low),
            high=_rows(self.effect_high),
        )


class _Score(_File):
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
    protocol: Text = ""
    definition: Text = ""
    not_measured: Text = ""

    def score(self, protocol: str) -> RunScore:
        """As the page shows it; `protocol` is the report's."""
        ci = None if self.ci_low is None or self.ci_high is None else (self.ci_low, self.ci_high)
        values = self.model_dump(exclude={"ci_low", "ci_high", "not_measured"})
        return RunScore(**values | {"ci": ci, "protocol": self.protocol or protocol, "reason": self.not_measured})


class _Fact(_File):
    template: Text
    subject: Text
    target_true: Text


class _Request(_File):
    fact: _Fact
    target_new: Text


class _About(_File):
    method: Text = "?"
    layer: int | Text = "-"


class _Report(_File):
    """What `EditReport.to_json` writes."""

    model: Text
    revision: Text
    protocol: Text
    seed: int
    about: _About
    settings: dict[str, Any]
    request: _Request
    scores: Annotated[list[_Score], Field(max_length=200)]

    def run(self, text: str) -> EditRun:
        """As the page shows it."""
        fact = self.request.fact
        return EditRun(
            source=text,
            model=self.model,
            revision=self.revision,
            protocol=self.protocol,
            seed=self.seed,
            prompt=fact.template.replace("{}", fact.subject),
            subject=fact.subject,
            old=fact.target_true,
            new=self.request.target_new,
            method=self.about.method,
            layer=layer_of(self.about.model_dump()),
            way=way_of(self.settings),
            scores=tuple(score.score(self.protocol) for score in self.scores),
        )


def _rows(grid: Sequence[Sequence[float | None]]) -> Rows:
    return tuple(tuple(math.nan if value is None else float(value) for value in row) for row in grid)


def read_run(text: str | bytes) -> Run:
    """A run from its JSON.

    Raises:
        ValueError: in one sentence, if it is not a run that the Workbench saved.
    """
    size = len(text)
    if size > LARGEST:
        raise ValueError(f"the file has {size / 2**20:.1f} MB; a saved run has at most {LARGEST / 2**20:.0f}")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the file is not UTF-8 text (byte {error.start}); choose a saved run") from None
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is not JSON ({str(error)[:80]}); choose a saved run") from None
    kinds: dict[str, type[_Trace | _Report]] = {"format": _Trace, "scores": _Report}
    kind = next((kinds[name] for name in kinds if isinstance(values, dict) and name in values), None)
    problem = "it holds neither a trace nor scores"
    if kind is not None:
        try:
            return kind.model_validate(values).run(text)
        except ValidationError as error:
            problem = _sentence(error)
    raise ValueError(f"the file is not a saved run: {problem}; choose JSON from Export or Report of the Workbench")


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, in words."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # our own words
        return str(first["ctx"]["error"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    value = repr(first["input"])
    shown = value if len(value) <= 60 else f"{value[:60]}…"
    if first["type"] == "model_type":
        return f"{where} is {shown}; expected an object with named fields"
    return f"{where} is {shown}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def open_file(name: str, data: bytes) -> str:
    """Add a saved run to the session; what is wrong with it, or an empty text.

    Args:
        name: what the reader calls the file.
    """
    try:
        add(read_run(data))
    except ValueError as error:
        return f"{name}: {error}."
    return ""


def file_name(run: Run, number: int | None = None) -> str:
    """A name for the run's file."""
    kind = f"trace-{run.site.partition('_')[0]}" if isinstance(run, TraceRun) else f"edit-{run.method}"
    words = re.sub(r"[^\w-]+", "-", f"{kind}-{run.subject}").strip("-").lower()[:80]
    return f"{words}.json" if number is None else f"{number:03d}-{words}.json"


def zipped(runs: list[Run]) -> bytes:
    """Every run's JSON, and a table of them all.  The same runs give the same bytes."""
    table = io.StringIO(newline="")
    rows = [{"file": file_name(run, i)} | row for i, (run, row) in enumerate(zip(runs, overview(runs), strict=True), 1)]
    writer = csv.DictWriter(table, list(rows[0]) if rows else ["file"])
    writer.writeheader()
    writer.writerows({name: _defused(value) for name, value in row.items()} for row in rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [
            ("runs.csv", table.getvalue()),
            *((file_name(run, i), run.text) for i, run in enumerate(runs, 1)),
        ]:
            archive.writestr(zipfile.ZipInfo(name), text.encode("utf-8", "surrogatepass"))
    return packed.getvalue()


def _defused(value: str) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
