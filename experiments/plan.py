"""Cells, the keys that name them, and plans of many cells.

A cell is a kind of work with its settings as plain JSON.  Its key is the sha256 of the canonical JSON of everything its
result depends on: equal cells are computed once, and different cells never share a result.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
"""Version of the key's format."""

LOADING = "loading"
"""Name in `Plan.about` under which device_map, load and chat of `experiments.workers.messages.Setup` stand."""

Spec = Mapping[str, Any]
"""The settings of a cell: plain JSON."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work.

    Raises:
        ValueError: if the settings are not plain JSON, or hold a number that is not finite.
    """

    kind: str
    """A name of `experiments.kinds`."""
    spec: Spec

    def __post_init__(self) -> None:
        canonical(self.spec)


@dataclass(frozen=True, eq=False)
class Plan:
    """Cells over one model.

    Raises:
        ValueError: if there are no cells, or the name could not be that of a folder.
    """

    name: str
    model: str
    """What `models.load_model` takes; empty for cells that need no model."""
    cells: tuple[Cell, ...]
    dtype: str = "float32"
    device: str = "cpu"
    about: Mapping[str, Any] = field(default_factory=dict)
    """Stored with the run: the study and its options, which its summary needs."""

    def __post_init__(self) -> None:
        if not self.name or not all(letter.isalnum() or letter in "-_." for letter in self.name):
            raise ValueError(f"the plan's name is {self.name!r}; use letters, digits, '-', '_' and '.'")
        if not self.cells:
            raise ValueError(f"the plan {self.name!r} has no cells; give at least one")
        canonical(self.about)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no white space, so that equal values give equal text.

    Raises:
        ValueError: if it holds something JSON cannot express, such as NaN.
    """
    _check(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _check(value: Any, where: str) -> None:
    """Reject what json.dumps would silently change, such as a number as a key, since keys must not depend on that."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{where} has the key {name!r}; expected text, as in JSON")
            _check(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; JSON takes finite numbers only, so use null")
    elif not (value is None or isinstance(value, str | int)):
        raise ValueError(f"{where} is a {type(value).__name__}; expected plain JSON values")


def cell_key(kind: str, version: int, spec: Spec, identity: Mapping[str, Any]) -> str:
    """sha256, in hex, of everything a result depends on.

    Args:
        version: of the kind.
        identity: of the model and the libraries, from `experiments.identity`.
    """
    whole = {"schema": SCHEMA, "kind": kind, "version": version, "spec": spec, "identity": identity}
    return digest(whole)


def grid(kind: str, facts: Sequence[Mapping[str, Any]], axes: Mapping[str, Any]) -> Iterator[Cell]:
    """A cell for every combination: facts first, then the axes in their order, the last one fastest.

    Args:
        facts: settings that go together, such as {"fact": …} or {"request": …}.
        axes: setting -> its value, or the list of its values.

    Raises:
        ValueError: if a list of values is empty.
    """
    for name, values in axes.items():
        if isinstance(values, list | tuple) and not values:
            raise ValueError(f"the grid's {name!r} is empty; give at least one value")
    listed = [values if isinstance(values, list | tuple) else [values] for values in axes.values()]
    for together in facts:
        for values in itertools.product(*listed):
            yield Cell(kind, {**together, **dict(zip(axes, values, strict=True))})
