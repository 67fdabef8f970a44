"""What the page can ask of the worker, as plain frozen data: equal questions have equal keys and share one answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from app.server.job import job_key
from tracing.sites import LAYER_SITES, SITE_NAMES

SITES = {SITE_NAMES[site].code: site for site in LAYER_SITES}
"""Codes of the page (and of its links) to the names of the library."""


@dataclass(frozen=True)
class Ask:
    """A question; the job that answers it is named by its key."""

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Name of the job."""
        return job_key(self.kind, asdict(self))


@dataclass(frozen=True)
class FetchAsk(Ask):
    """Download a model of the catalogue."""

    kind = "fetch"
    name: str
    licence_accepted: bool


@dataclass(frozen=True)
class ReadAsk(Ask):
    """How does the model read this prompt, and what does it answer?"""

    kind = "read"
    model: str
    prompt: str
    subject: str
    answer: str
    """The true answer; empty means the model's own."""
    occurrence: int = 0
    """Which place of the subject in the prompt is meant, counted from 0."""


@dataclass(frozen=True)
class TraceAsk(Ask):
    """Corrupt the subject, restore one state at a time."""

    kind = "trace"
    model: str
    prompt: str
    subject: str
    answer: str
    sites: tuple[str, ...]
    """Codes, keys of `SITES`."""
    noise: float
    """Times the standard deviation of the model's subject embeddings."""
    samples: int
    window: int
    """Layers restored together, for MLP and attention outputs."""
    seed: int
    against: str = ""
    """Another answer, for the logit difference; empty means that it is not measured."""
    occurrence: int = 0


@dataclass(frozen=True)
class EditAsk(Ask):
    """Make the model say `new` instead of `answer`."""

    kind = "edit"
    model: str
    prompt: str
    subject: str
    answer: str
    new: str
    method: str
    config: tuple[tuple[str, object], ...]
    """Fields of the method's config, `layer` among them where it has one."""
    active: tuple[str, ...] = ()
    """Keys of the edits that are in the model meanwhile, oldest first."""
    roll_back: bool = False
    """Give the edit up where ordinary text shows that it breaks the model."""
    occurrence: int = 0


@dataclass(frozen=True)
class FileAsk(Ask):
    """Take an edit from a file."""

    kind = "file"
    model: str
    file: str
    """Name among the uploads."""
    forced: bool
    """Even if it was made for other weights."""
    active: tuple[str, ...] = ()
    """Keys of the edits that stay beside it."""

    @property
    def key(self) -> str:
        """Name of the job and of its edit."""
        return job_key(self.kind, [self.model, self.file, self.forced])


@dataclass(frozen=True)
class ScoreAsk(Ask):
    """Five scores of an edit on these probes."""

    kind = "score"
    model: str
    edit: str
    """Key of the edit whose fact is asked for."""
    active: tuple[str, ...]
    """Keys of all edits in the model, that one among them."""
    probes: tuple[tuple[str, str, str], ...] | None
    """(kind, prompt, expected answer); None for those the edit came with."""


@dataclass(frozen=True)
class LayersAsk(Ask):
    """The same edit at every layer."""

    kind = "layers"
    edit: EditAsk
    trace: TraceAsk


@dataclass(frozen=True)
class CompareAsk(Ask):
    """Two sets of edits side by side."""

    kind = "compare"
    model: str
    left: tuple[str, ...]
    right: tuple[str, ...]


@dataclass(frozen=True)
class LensAsk(Ask):
    """Read every state through the model's own head."""

    kind = "lens"
    model: str
    prompt: str
    subject: str
    answer: str
    new: str
    active: tuple[str, ...]
    """Keys of the edits that the reading is compared with."""
    occurrence: int = 0


@dataclass(frozen=True)
class KnockoutAsk(Ask):
    """Cut attention edges."""

    kind = "knockout"
    model: str
    prompt: str
    subject: str
    answer: str
    window: int
    """Layers cut together."""
    occurrence: int = 0


@dataclass(frozen=True)
class DifferenceAsk(Ask):
    """The same trace without and with the active edits."""

    kind = "difference"
    trace: TraceAsk
    new: str
    active: tuple[str, ...]
    about: str
    """"own": each model's own answer; "true" or "new": that answer in both."""


@dataclass(frozen=True)
class PatchAsk(Ask):
    """Write states of one prompt into the run of another."""

    kind = "patch"
    model: str
    source: str
    base: str
    site: str
    """Code, a key of `SITES`."""
    pairs: tuple[tuple[int, int], ...]
    """(position in the source, position in the base); none means every token into the same place."""


@dataclass(frozen=True)
class BreakAsk(Ask):
    """What will an edit break?"""

    kind = "breaks"
    edit: EditAsk


@dataclass(frozen=True)
class BatchAsk(Ask):
    """Trace or edit many facts."""

    kind = "batch"
    model: str
    """Its name in the catalogue."""
    source: str
    """"atlas" or a path."""
    what: str
    """"trace" or "edit"."""
    facts: int
    seed: int
    """Of the choice of facts, and of the noise."""
    workers: int
    maps: tuple[str, ...] = ()
    """Keys of `app.batch.prepare.MAPS`."""
    samples: int = 3
    window: int = 1
    noise: float = 3.0
    methods: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    only_known: bool = True
    """Leave out facts the model does not know."""
