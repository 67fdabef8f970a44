"""Runs as files: the JSON that the Workbench exports, read back with every field checked.  Text and numbers only.

A trace comes from Export, the scores of an edit from Report.  A file may come from anybody, so nothing in it is
believed: sizes are bounded, types are checked, and what can be computed from other fields is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from app.runs.json_fields import Record, Rows
from metrics.definitions import METRICS
from tracing.sites import LAYER_SITES, SITE_NAMES

LARGEST = 2 * 1024 * 1024
"""Bytes of one file."""
MOST_TOKENS, MOST_SCORES = 512, 200
TRACE_FORMATS = ("engram-trace-1", "engram-trace-2")
SITES: dict[str, str] = {site: SITE_NAMES[site].short for site in LAYER_SITES}
LOWER_IS_BETTER = ("kl", "rank")
"""Measures that a restored state lowers."""


@dataclass(frozen=True, eq=False)
class SavedTrace:
    """One map."""

    key: str
    text: str
    """The file as it is."""
    model: str
    revision: str
    prompt: str
    subject: str
    answer: str
    site: str
    """A name of `SITES`."""
    measure: str
    settings: Mapping[str, str]
    """Window, noise and whatever else was asked for, in words."""
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
    """Ends of its 95 % interval; NaN for one sample."""

    @property
    def total(self) -> float:
        """What the corruption took away."""
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
        """A few words."""
        return f"{self.prompt} ({SITES[self.site]})"


@dataclass(frozen=True)
class SavedScore:
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
class SavedEdit:
    """The scores of one edit."""

    key: str
    text: str
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
    """A number, or nothing where the method has no layer."""
    way: str
    """What else has to be the same before numbers are held against each other."""
    scores: tuple[SavedScore, ...]

    @property
    def title(self) -> str:
        """A few words."""
        where = f", layer {self.layer}" if self.layer else ""
        return f"{self.prompt} → {self.new} ({self.method}{where})"

    def headline(self, metric: str) -> SavedScore | None:
        """The score shown first for a metric."""
        return next((score for score in self.scores if score.metric == metric and score.headline), None)


Saved = SavedTrace | SavedEdit


def read_run(text: str | bytes) -> Saved:
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
    try:
        record = Record(values, "the file")
        if "format" in record.values:
            return _trace(record, text)
        if "scores" in record.values and "request" in record.values:
            return _edit(record, text)
        raise ValueError("it has neither a trace nor scores")
    except ValueError as error:
        raise ValueError(
            f"the file is not a saved run: {error}; choose JSON from Export or Report of the Workbench"
        ) from None


def _trace(record: Record, text: str) -> SavedTrace:
    form = record.text("format")
    if form not in TRACE_FORMATS:
        raise ValueError(f"its format is {form[:40]!r}, and {TRACE_FORMATS[-1]} is the newest known here")
    config = record.inner("config")
    site = config.text("site")
    if site not in SITES:
        raise ValueError(f"its map is of {site[:40]!r}; {', '.join(SITES)} can be shown")
    tokens = tuple(str(token) for token in record.list("tokens", MOST_TOKENS, str))
    start, stop = (*record.list("subject_span", 2, int), 0, 0)[:2]
    if not 0 <= start < stop <= len(tokens):
        raise ValueError(f"its subject spans tokens {start} to {stop} of {len(tokens)}")
    corrupted = [float(value) for value in record.list("corrupted", 1000, float)]
    if not corrupted:
        raise ValueError("it has no corrupted run")
    effect = record.grid("effect", len(tokens))
    named = {name: config.word(name) for name in config.values if name not in ("site", "samples", "batch_size")}
    return SavedTrace(
        key=_key(text),
        text=text,
        model=record.text("model_name"),
        revision=record.text("revision"),
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        answer=record.text("answer"),
        site=site,
        measure=record.text("measure", "probability"),
        settings=named,
        tokens=tokens,
        subject_span=(int(start), int(stop)),
        samples=len(corrupted),
        clean=record.number("clean"),
        corrupted=math.fsum(corrupted) / len(corrupted),
        effect=effect,
        low=record.grid("effect_low", len(tokens), len(effect[0])),
        high=record.grid("effect_high", len(tokens), len(effect[0])),
    )


def _edit(record: Record, text: str) -> SavedEdit:
    request, about, settings = record.inner("request"), record.inner("about"), record.inner("settings")
    fact = request.inner("fact")
    template, subject = fact.text("template"), fact.text("subject")
    layer = about.word("layer") if "layer" in about.values else ""
    protocol = record.text("protocol")
    return SavedEdit(
        key=_key(text),
        text=text,
        model=record.text("model"),
        revision=record.text("revision"),
        protocol=protocol,
        seed=int(record.number("seed")),
        prompt=template.replace("{}", subject),
        subject=subject,
        old=fact.text("target_true"),
        new=request.text("target_new"),
        method=about.text("method", "?"),
        layer="" if layer == "-" else layer,
        way=" ".join(settings.word(name) for name in ("max_new_tokens", "distractors") if name in settings.values),
        scores=tuple(_score(one, protocol) for one in record.records("scores", MOST_SCORES)),
    )


def _score(record: Record, protocol: str) -> SavedScore:
    low, high = record.optional("ci_low"), record.optional("ci_high")
    metric = record.text("metric")
    if metric not in METRICS:
        raise ValueError(f"{record.where}.metric is {metric[:40]!r}; expected one of {', '.join(METRICS)}")
    return SavedScore(
        name=record.text("name"),
        metric=metric,
        label=record.text("label"),
        headline=record.values.get("headline") is True,
        before=record.optional("before"),
        after=record.optional("after"),
        ci=None if low is None or high is None else (low, high),
        n=int(record.number("n")),
        unit=record.text("unit"),
        protocol=record.text("protocol", protocol),
        definition=record.text("definition", ""),
        reason=record.text("not_measured", ""),
    )


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def _key(text: str) -> str:
    return f"run-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
