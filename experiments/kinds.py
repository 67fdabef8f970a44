"""The kinds of cells by name: what each computes, which cells share work, and how much memory a cell needs.

    @kind("trace", version=1, complete=..., group=..., estimate_bytes=...)
    def trace(model, spec, context): ...

A kind is a function in an importable module, since workers in other processes import it by name.  Measurements that
differ from run to run (seconds, peak memory) go into `context.notes`, not into the result: results are compared bit for
bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.plan import Spec, canonical
from facts.watch import UNWATCHED, Watch

if TYPE_CHECKING:
    from models import LanguageModel

T = TypeVar("T")

BUILT_IN = {
    "trace": "experiments.cells.trace",
    "edit": "experiments.cells.edit",
    "average": "experiments.cells.average",
    "gradients": "experiments.cells.gradients",
    "moment": "experiments.studies.covariance",
    "protocols": "experiments.cells.protocols",
    "rewrite": "experiments.cells.rewrite",
    "scored": "experiments.cells.scored",
    "sequence": "experiments.cells.sequence",
}
"""Kind -> the module that registers it, imported when a process first needs that kind."""


@dataclass
class Context:
    """What a cell gets besides its model and settings."""

    halvings: int = 0
    """How often the cell ran out of memory before, and so how often to halve its batch."""
    share: float = 1.0
    """Share of this machine's free memory that this worker may use."""
    watch: Watch = UNWATCHED
    """Stops the work once the cell's deadline has passed, for kinds that can stop midway."""
    notes: dict[str, Any] = field(default_factory=dict)
    """JSON values stored beside the result, such as seconds, which may differ between equal results."""
    _group: str = ""
    _memo: dict[str, Any] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def memo(self, name: str, make: Callable[[], T]) -> T:
        """`make()`, computed once for consecutive cells of one group on this worker."""
        if name not in self._memo:
            self._memo[name] = make()
        value: T = self._memo[name]
        return value

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """`make()`, computed once for this worker's model."""
        if name not in self._kept:
            self._kept[name] = make()
        value: T = self._kept[name]
        return value

    def enter(self, group: str, halvings: int, watch: Watch) -> None:
        """Begin a cell; a new group clears what the last one shared."""
        if group != self._group:
            self._group, self._memo = group, {}
        self.halvings, self.watch, self.notes = halvings, watch, {}


Run = Callable[[Any, Spec, Context], Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One kind of cell."""

    name: str
    version: int
    """Increased whenever the same settings give another result."""
    run: Run
    """`run(model, spec, context)` returns JSON values, and numpy arrays at the top level."""
    complete: Callable[[Spec], Spec]
    """Checks the settings and fills in every default, so that a changed default changes the key."""
    group: Callable[[Spec], str]
    """Group key: cells with the same text run one after another on one worker where possible."""
    estimate_bytes: Callable[[LanguageModel, Spec], int]
    """The least memory in which the cell can run."""

    @property
    def module(self) -> str:
        """The module that defines it, which a worker has to import."""
        return self.run.__module__


_KINDS: dict[str, Kind] = {}


def check_settings(what: str, spec: Spec, taken: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Check the names of a cell's settings.

    Args:
        what: the kind in words, such as "an edit".
        taken: names it may have.
        needed: those of them that must be there and hold something.

    Raises:
        ValueError: naming the setting that is unknown or missing.
    """
    unknown = sorted(set(spec) - set(taken))
    missing = [name for name in needed if not spec.get(name)]
    if unknown or missing:
        problem = f"it has no setting {unknown[0]!r}" if unknown else f"it needs {' and '.join(missing)}"
        raise ValueError(f"{what} takes {', '.join(taken)}; {problem}")


def kind(
    name: str,
    *,
    version: int = 1,
    complete: Callable[[Spec], Spec] = dict,
    group: Callable[[Spec], str] = canonical,
    estimate_bytes: Callable[[LanguageModel, Spec], int] = lambda model, spec: 0,
) -> Callable[[Run], Run]:
    """Register a function as a kind of cell; by default settings are not checked and cells share nothing."""

    def register(run: Run) -> Run:
        earlier = _KINDS.get(name)
        if earlier is not None and earlier.run.__module__ != run.__module__:
            raise ValueError(f"the kind {name!r} is registered by {earlier.module} and {run.__module__}; rename one")
        _KINDS[name] = Kind(name, version, run, complete, group, estimate_bytes)
        return run

    return register


def get_kind(name: str) -> Kind:
    """The kind of that name.

    Kinds registered by modules that were added to `experiments.studies` are found as well.

    Raises:
        ValueError: if there is none.
    """
    if name not in _KINDS and name in BUILT_IN:
        importlib.import_module(BUILT_IN[name])
    if name in _KINDS:
        return _KINDS[name]
    unusable = importlib.import_module("experiments.studies").survey().unusable
    if name not in _KINDS:
        choices = sorted(_KINDS.keys() | BUILT_IN.keys())
        near = get_close_matches(name, choices, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        lost = "".join(f"; {study} may have it, but {reason}" for study, reason in unusable.items())
        raise ValueError(f"unknown kind of cell {name!r}; {hint}choose from {', '.join(choices)}{lost}")
    return _KINDS[name]
