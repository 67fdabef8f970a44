"""What an experiment found so far: averaged maps, and a leaderboard of methods for each protocol."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.sweeps import Experiment
from app.two_runs import NONE, Cells
from app.wording import amount
from experiments.ledger import Ledger
from experiments.records import Entry, entries

if TYPE_CHECKING:
    import pandas as pd

HEADLINES = ("reliability", "generalization", "locality", "portability")
EFFECTS = "effects/"
PICTURES, TABLES = (".png",), (".csv", ".parquet", ".md", ".tex", ".pdf", ".png", ".json", ".npz")


@dataclass(frozen=True, eq=False)
class AveragedMap:
    """Mean effects over facts."""

    name: str
    """As `tracing.average.map_name` calls it, and the settings that tell it from others of the run."""
    site: str
    mean: NDArray[np.float64]
    """[category, layer]; NaN where no fact has such a token."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """Ends of the 95 % t-interval over facts."""
    n: tuple[int, ...]
    """Facts with such a token, by category."""


@dataclass(frozen=True, eq=False)
class Board:
    """The methods under one protocol."""

    protocol: str
    rows: tuple[dict[str, Any], ...]
    """A method each, the best first: means in percent."""
    details: tuple[Cells, ...]
    """A number each, with the unedited model's, the change, the interval and n."""


@dataclass(frozen=True, eq=False)
class Results:
    """What finished cells add up to."""

    model: str
    maps: tuple[AveragedMap, ...]
    n_facts: int
    n_unknown: int
    total: tuple[float, float, float] | None
    """Average total effect with its interval; None where nothing was traced."""
    boards: tuple[Board, ...]
    files: tuple[Path, ...] = field(default=())
    """What the experiment wrote when it ended."""

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures among the files."""
        return tuple(path for path in self.files if path.suffix in PICTURES)


def read_results(one: Experiment) -> Results:
    """Everything that is finished.

    Raises:
        LedgerDamagedError: if a row is not as it was written.
    """
    from experiments.summary import scores_frame

    with Ledger(one.folder, create=False) as ledger:
        info = ledger.info(one.run)
        finished = [entry for entry in entries(ledger, one.run) if entry.payload is not None]
        frame = scores_frame(ledger, one.run)
    traced = _traced(finished)
    effects = np.concatenate([part.total for part in traced]) if traced else np.zeros(0)
    unknown = len(info.about.get("unknown", ())) + sum(part.unknown for part in traced)
    folder = one.folder / one.run
    files = sorted(path for path in folder.glob("*") if path.suffix in TABLES) if folder.is_dir() else []
    return Results(
        model=info.model,
        maps=_averaged(traced),
        n_facts=len(effects),
        n_unknown=unknown,
        total=_mean(effects) if len(effects) else None,
        boards=boards(frame) if len(frame) else (),
        files=tuple(files),
    )


def table(one: Experiment, what: str, kind: str) -> bytes:
    """A table of all cells ("cells") or of all scores ("scores") as "csv" or "parquet"."""
    import tempfile

    from experiments.summary import cells_frame, scores_frame, write_table

    with Ledger(one.folder, create=False) as ledger:
        frame = (scores_frame if what == "scores" else cells_frame)(ledger, one.run)
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
    known = {"average": _average_part, "trace": _trace_part}
    varied = _varied([entry.spec for entry in finished if entry.kind == "trace"])
    parts = [known[entry.kind](entry, varied) for entry in finished if entry.kind in known]
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
    if by_category.ndim != 2:  # heads have no place on a layer axis
        return None
    return _Part({name: by_category[None]}, np.array([result["total_effect"]], dtype=np.float64), 0)


def _varied(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings of single traces that differ within a run, so that their maps are not one."""
    names = ("window", "noise", "corruption", "samples", "seed", "direction")
    by_site: dict[str, set[tuple[str, str]]] = {}
    for spec in specs:
        by_site.setdefault(str(spec["site"]), set()).update((name, str(spec.get(name))) for name in names)
    return [name for name in names if any(sum(key == name for key, _ in found) > 1 for found in by_site.values())]


def _averaged(parts: Sequence[_Part]) -> tuple[AveragedMap, ...]:
    from tracing.statistics import interval, nan_mean

    names = dict.fromkeys(name for part in parts for name in part.effects)
    maps = []
    for name in names:
        effects = np.concatenate([part.effects[name] for part in parts if name in part.effects])
        if effects.ndim != 3:
            continue
        low, high = interval(effects)
        counts = tuple(int(n) for n in (~np.isnan(effects[:, :, 0])).sum(0))
        maps.append(AveragedMap(name, name.partition(",")[0], nan_mean(effects), low, high, counts))
    return tuple(maps)


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    from tracing.statistics import interval

    low, high = interval(values)
    return float(values.mean()), float(low), float(high)


# ---- leaderboard


def boards(frame: pd.DataFrame) -> tuple[Board, ...]:
    """A leaderboard for each protocol of a table of scores; numbers of two protocols are never ranked together."""
    return tuple(_board(str(protocol), part) for protocol, part in frame.groupby("protocol", sort=True))


def _board(protocol: str, frame: pd.DataFrame) -> Board:
    from experiments.summary import averaged
    from metrics.protocols import PROTOCOLS

    named = PROTOCOLS[protocol].headlines if protocol in PROTOCOLS else {}
    headlines = {named.get(metric, f"{metric}.greedy"): metric for metric in HEADLINES}  # type: ignore[call-overload]
    shown = frame[frame["name"].isin(list(headlines))]
    by = ["method", "layer"] if shown["layer"].nunique(dropna=False) > 1 else ["method"]
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    details: list[Cells] = []
    for name, metric in headlines.items():
        part = shown[shown["name"] == name]
        after, before = (averaged(part, column, by).to_dict("records") for column in ("after", "before"))
        for record in after:
            group = tuple(_word(record[column]) for column in by)
            unit = str(part["unit"].iloc[0])
            base = next((one["before"] for one in before if all(_same(one[c], record[c]) for c in by)), None)
            row = rows.setdefault(group, dict(zip(by, group, strict=True)) | {"facts": 0})
            row["facts"] = max(row["facts"], int(record["n"]))
            row[metric] = round(100 * record["after"], 1)
            details.append(dict(zip(by, group, strict=True)) | _detail(metric, record, base, unit))
    ordered = sorted(rows.values(), key=lambda row: tuple(-row.get(metric, -1.0) for metric in HEADLINES))
    return Board(protocol, tuple(ordered), tuple(details))


def _detail(metric: str, record: Mapping[str, Any], base: float | None, unit: str) -> Cells:
    low, high = record["ci_low"], record["ci_high"]
    known = low is not None and low == low
    return {
        "metric": metric.capitalize(),
        "before": NONE if base is None else amount(base, unit),
        "after": amount(record["after"], unit),
        "change": NONE if base is None else amount(record["after"] - base, unit, signed=True),
        "95 % interval": f"{amount(low, unit).removesuffix(' %')} to {amount(high, unit)}" if known else NONE,
        "facts": str(record["n"]),
    }


def _word(value: Any) -> str:
    if value is None or value != value:
        return NONE
    return str(int(value)) if isinstance(value, float) else str(value)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)
