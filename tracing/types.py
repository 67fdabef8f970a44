"""The result of a causal trace.  Meng et al. 2022 (arXiv:2202.05262)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from tracing.config import TraceConfig
from tracing.effects import TraceEffects
from tracing.measures import Readings
from tracing.storage import plain, read, saved
from tracing.suggestion import Cell, Suggestion, largest, largest_at, suggestion

PositionName = Literal["first_subject", "last_subject", "last_token"]
Category = Literal[
    "first_subject", "middle_subject", "last_subject", "first_subsequent", "further_tokens", "last_token"
]
CATEGORIES: tuple[Category, ...] = get_args(Category)

FORMAT = "engram-trace-2"
READABLE = (FORMAT, "engram-trace-1")
"""The first version knew one measure, Gaussian noise and no heads; its files still open."""


@dataclass(frozen=True, eq=False)
class TraceResult(TraceEffects):
    """One causal trace, with the layer it suggests, its table and its file."""

    def largest(self) -> Cell:
        """The largest effect before the last token; at the last token every late state restores the answer.

        Its interval holds for all cells compared (`tracing.suggestion`).  By kl and rank, which a restored
        state lowers, it is the most negative effect.
        """
        return largest(self)

    def last_subject(self) -> Cell | None:
        """The largest effect at the last subject token; None where it was not measured."""
        return largest_at(self, self.subject_span[1] - 1)

    def suggestion(
        self, position: int | None = None, without: Mapping[int, Collection[int]] | None = None
    ) -> Suggestion:
        """The layer whose effect stands out at one token, or the reason why there is none (`tracing.suggestion`).

        Args:
            position: a token of the prompt; by default the last of the subject.
            without: position -> layers that cannot be edited there.

        Raises:
            ValueError: if `position` is outside the prompt.
        """
        return suggestion(self, position, without)

    def to_frame(self) -> pd.DataFrame:
        """One row per measured cell: position, token, in_subject, layer, site, effect, its interval, p_restored, sd.

        With heads a column `head` follows `layer`; by another measure `p_restored` is named after it.
        """
        low, high = self.ci()
        positions, layers, *heads = (axis.ravel() for axis in np.indices(self.restored.shape[1:]))
        columns = {
            "position": positions,
            "token": [self.tokens[pos] for pos in positions],
            "in_subject": (positions >= self.subject_span[0]) & (positions < self.subject_span[1]),
            "layer": layers,
            **({"head": heads[0]} if heads else {}),
            "site": self.config.site,
            "effect": self.indirect_effect.ravel(),
            "effect_low": low.ravel(),
            "effect_high": high.ravel(),
            ("p_restored" if self.measure == "probability" else self.measure): self.mean.ravel(),
            "sd": self.sd.ravel(),
        }
        frame = pd.DataFrame(columns)
        return frame[frame["effect"].notna()].reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain values for a run record; NaN becomes None."""
        record, suggested = self._header(), self.suggestion()
        last, probability = self.last_subject(), self.by("probability")
        low, high = self.ci()
        record |= {
            "total_effect": self.total_effect,
            "corrupted": self.corrupted.tolist(),
            "p_clean": probability.clean,
            "p_corrupted": float(probability.corrupted.mean(dtype=np.float64)),
            "largest": self.largest().to_dict(),
            "last_subject": None if last is None else last.to_dict(),
            "suggested": suggested.layer,
            "suggested_reason": suggested.reason,
            "p_restored": plain(self.mean),
            "effect": plain(self.indirect_effect),
            "effect_low": plain(low),
            "effect_high": plain(high),
        }
        return record

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write an .npz file: the arrays of every measure, and everything else as JSON in UTF-8 bytes (no pickle)."""
        header = np.frombuffer(json.dumps(self._header()).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {"corrupted": self.corrupted, "restored": self.restored}
        for measure, readings in self.others.items():
            arrays |= {f"{measure}/corrupted": readings.corrupted, f"{measure}/restored": readings.restored}
        with open(path, "wb") as file:
            np.savez_compressed(file, header=header, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> TraceResult:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a saved trace.
        """
        header, arrays = read(path)
        if header.pop("kind") not in READABLE:
            raise ValueError(f"{str(path)!r} is not a saved trace; expected what TraceResult.save wrote")
        with saved(path):
            header.pop("format")
            header["config"] = TraceConfig(**header["config"])
            for name in ("tokens", "subject_span", "answer_ids"):
                header[name] = tuple(header[name])
            header["others"] = {
                measure: Readings(clean, arrays.pop(f"{measure}/corrupted"), arrays.pop(f"{measure}/restored"))
                for measure, clean in header.pop("others", {}).items()
            }
            return cls(corrupted=arrays["corrupted"], restored=arrays["restored"], **header)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """How a notebook shows the trace: numbers and map.  By name, since the figures import this module."""
        bundle: dict[str, str] = import_module("tracing.plots.inline").trace_bundle(self)
        return bundle

    def _header(self) -> dict[str, Any]:
        """Every field but the arrays, as JSON-ready values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("corrupted", "restored")}
        clean = {measure: readings.clean for measure, readings in self.others.items()}
        return {"format": FORMAT} | values | {"config": asdict(self.config), "others": clean}
