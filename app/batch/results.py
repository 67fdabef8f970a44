"""Results of an experiment so far: averaged maps, leaderboards, tables and the files it wrote."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.batch.leaderboard import Board, boards, score_records
from app.batch.sweeps import Experiment
from app.shared.averages import AveragedMap, averaged_map
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import Entry, entries
from tracing.sites import LAYER_SITES, site_of

EFFECTS = "effects/"
PICTURES, TABLES = (".png",), (".csv", ".parquet", ".md", ".tex", ".pdf", ".png", ".json", ".npz")


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the finished cells."""

    model: str
    maps: tuple[AveragedMap, ...]
    n_facts: int
    n_unknown: int
    total: tuple[float, float, float] | None
    """Average total effect with its interval; None where nothing was traced."""
    boards: tuple[Board, ...]
    files: tuple[Path, ...] = field(default=())
    """Files the experiment wrote when it ended."""

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures among the files."""
        return tuple(path for path in self.files if path.suffix in PICTURES)


def read_results(experiment: Experiment) -> Results:
    """The results of all finished cells.

    Raises:
        LedgerDamagedError: if a row has changed since it was written.
    """
    with Ledger(experiment.folder, create=False) as ledger:
        info = ledger.info(experiment.run)
        finished = [entry for entry in entries(ledger, experiment.run) if entry.payload is not None]
    traced = _traced(finished)
    effects = np.concatenate([part.total for part in traced]) if traced else np.zeros(0)
    unknown = len(info.about.get("unknown", ())) + sum(part.unknown for part in traced)
    folder = experiment.folder / experiment.run
    files = sorted(path for path in folder.glob("*") if path.suffix in TABLES) if folder.is_dir() else []
    return Results(
        model=info.model,
        maps=_averaged(traced),
        n_facts=len(effects),
        n_unknown=unknown,
        total=_mean(effects) if len(effects) else None,
        boards=boards(finished),
        files=tuple(files),
    )


def table(experiment: Experiment, what: str, kind: str) -> bytes:
    """A table of all cells ("cells") or of all scores ("scores") as "csv" or "parquet"."""
    import tempfile

    import pandas as pd

    from experiments.summary import cells_frame, write_table

    with Ledger(experiment.folder, create=False) as ledger:
        if what == "scores":
            frame = pd.DataFrame(score_records(entry for entry in entries(ledger, experiment.run) if entry.payload))
        else:
            frame = cells_frame(ledger, experiment.run)
    with tempfile.TemporaryDirectory() as folder:
        return write_table(frame, Path(folder) / f"{what}.{kind}").read_bytes()


def packed(files: Sequence[Path]) -> bytes:
    """Files as a zip."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    return whole.getvalue()


# ---- averaged maps


@dataclass(frozen=True, eq=False)
class _Part:
    """What one cell adds to the averages."""

    effects: Mapping[str, NDArray[np.float32]]
    """By map: [fact, category, layer]."""
    total: NDArray[np.float64]
    """[fact], the total effect."""
    unknown: int


def _traced(finished: Sequence[Entry]) -> list[_Part]:
    readers = {"average": _average_part, "trace": _trace_part}
    varied = _varied([entry.spec for entry in finished if entry.kind == "trace"])
    parts = [readers[entry.kind](entry, varied) for entry in finished if entry.kind in readers]
    return [part for part in parts if part is not None]


def _average_part(entry: Entry, varied: Sequence[str]) -> _Part:
    result = entry.result or {}
    effects = {name.removeprefix(EFFECTS): value for name, value in result.items() if name.startswith(EFFECTS)}
    total = np.asarray(result["clean"], dtype=np.float64) - result["corrupted"]
    return _Part(effects, total, len(result["unknown"]))


def _trace_part(entry: Entry, varied: Sequence[str]) -> _Part | None:
    result, spec = entry.result or {}, entry.spec
    if "by_category" not in result:
        return _Part({}, np.zeros(0), 1)
    severed = f", {spec['severed']} severed" if spec.get("severed") else ""
    name = f"{spec['site']}{severed}" + "".join(f", {key} {spec[key]}" for key in varied)
    by_category = np.asarray(result["by_category"])
    if by_category.ndim != 2:  # a map by heads has another axis
        return None
    return _Part({name: by_category[None]}, np.array([result["total_effect"]], dtype=np.float64), 0)


def _varied(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in which the traces of a run differ; traces that differ are averaged in separate maps."""
    names = ("window", "noise", "corruption", "samples", "seed", "direction")
    by_site: dict[str, set[tuple[str, str]]] = {}
    for spec in specs:
        by_site.setdefault(str(spec["site"]), set()).update((name, str(spec.get(name))) for name in names)
    return [name for name in names if any(sum(key == name for key, _ in values) > 1 for values in by_site.values())]


def _averaged(parts: Sequence[_Part]) -> tuple[AveragedMap, ...]:
    names = sorted({name for part in parts for name in part.effects}, key=_place)
    joined = {name: np.concatenate([part.effects[name] for part in parts if name in part.effects]) for name in names}
    return tuple(averaged_map(name, effects) for name, effects in joined.items() if effects.ndim == 3)


def _place(name: str) -> tuple[bool, int, str]:
    """Sort key: states, MLPs, attentions; then maps with a severed module."""
    site = site_of(name)
    return "severed" in name, LAYER_SITES.index(site) if site in LAYER_SITES else len(LAYER_SITES), name


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    from tracing.statistics import interval

    low, high = interval(values)
    return float(values.mean()), float(low), float(high)
