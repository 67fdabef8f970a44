"""What a causal trace found (`TraceResult`); what it is asked for is `TraceConfig`.  Meng et al. 2022, 2202.05262."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tracing.config import (
    CORRUPTIONS,
    SITES,
    Corruption,
    Direction,
    SeveredSite,
    TraceConfig,
    TraceSite,
    WindowCentre,
)
from tracing.statistics import interval

__all__ = [
    "CATEGORIES",
    "CORRUPTIONS",
    "SITES",
    "Category",
    "Corruption",
    "Direction",
    "PositionName",
    "SeveredSite",
    "TraceConfig",
    "TraceResult",
    "TraceSite",
    "WindowCentre",
]

PositionName = Literal["first_subject", "last_subject", "last_token"]
Category = Literal[
    "first_subject", "middle_subject", "last_subject", "first_subsequent", "further_tokens", "last_token"
]
CATEGORIES: tuple[Category, ...] = get_args(Category)

FORMAT = "engram-trace-1"


@dataclass(frozen=True, eq=False)
class TraceResult:
    """One causal trace: every number measured, with what is needed to measure it again.

    Probabilities are of the whole answer: the product over its tokens under teacher forcing, computed in float32
    log space.  Effects are differences of such probabilities and are never clipped: a negative effect means that
    restoring the state made the answer less likely.
    """

    config: TraceConfig
    model_name: str
    revision: str
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    """The prompt's tokens as text, a leading space kept."""
    subject_span: tuple[int, int]
    """Half-open token positions of the subject."""
    answer: str
    answer_ids: tuple[int, ...]
    predicted: str
    """The model's own greedy next token after the clean prompt."""
    answer_is_greedy: bool
    """Whether the clean model's argmax is the answer at each of its tokens: whether it knows the fact."""
    noise_std: float
    """Absolute standard deviation of the noise, in units of the embedding: `config.noise` x what was measured."""
    noise_source: str
    """What that was measured on, in words."""
    engine: str
    """"sweep" (rows join one forward at the layer after their restoration) or "replay" (whole forwards)."""
    clean: float
    corrupted: NDArray[np.float32]
    """[sample], probability of the answer with the subject corrupted and nothing restored."""
    restored: NDArray[np.float32]
    """[sample, pos, layer], probability with that one state restored; NaN at positions that were not asked for."""

    def __post_init__(self) -> None:
        expected = (self.config.n_samples, len(self.tokens), self.restored.shape[-1])
        if self.restored.ndim != 3 or self.restored.shape != expected or self.corrupted.shape != expected[:1]:
            raise ValueError(
                f"restored has shape {self.restored.shape} and corrupted {self.corrupted.shape}; "
                f"expected [sample, pos, layer] = {expected} and [sample]"
            )

    @property
    def n_layers(self) -> int:
        """Layers of the traced model."""
        return int(self.restored.shape[2])

    @property
    def mean(self) -> NDArray[np.float32]:
        """[pos, layer], mean over samples of the restored probability."""
        return self.restored.mean(axis=0, dtype=np.float64).astype(np.float32)

    @property
    def sd(self) -> NDArray[np.float32]:
        """[pos, layer], standard deviation over samples of the restored probability; 0 for one sample."""
        if self.config.n_samples == 1:
            return np.zeros_like(self.restored[0])
        return self.restored.std(axis=0, ddof=1, dtype=np.float64).astype(np.float32)

    @property
    def total_effect(self) -> float:
        """TE = P(clean) - mean P(corrupted): what the corruption took away (section 2.1)."""
        return self.clean - float(self.corrupted.mean(dtype=np.float64))

    @property
    def indirect_effect(self) -> NDArray[np.float32]:
        """[pos, layer], IE = mean P(restored) - mean P(corrupted): what restoring it gives back (section 2.1)."""
        return self._paired().mean(axis=0).astype(np.float32)

    @property
    def fraction_restored(self) -> NDArray[np.float32]:
        """[pos, layer], IE / TE (Hase et al. 2023, arXiv:2301.04213, section 4); NaN when TE is 0 up to rounding."""
        total = self.total_effect
        if abs(total) < 1e-6:
            return np.full_like(self.mean, np.nan)
        return (self.indirect_effect / total).astype(np.float32)

    def ci(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """([pos, layer], [pos, layer]), the 95 % t-interval of the indirect effect over paired noise samples.

        Paired: each sample's restored run is compared with the corrupted run of the same noise.  NaN for one sample.
        """
        low, high = interval(self._paired())
        return low.astype(np.float32), high.astype(np.float32)

    def peak(self, pos: int | None = None) -> tuple[int, int]:
        """(pos, layer) of the largest indirect effect at one position, by default the last subject token.

        Over the whole grid the residual stream's maximum sits trivially at the final token, so the position is fixed.
        The layer is a *suggestion*: where a fact is traced to says little about where an edit works best
        (Hase et al. 2023, arXiv:2301.04213).

        Raises:
            ValueError: if `pos` is outside the prompt or was not measured.
        """
        pos = self.subject_span[1] - 1 if pos is None else pos
        if not 0 <= pos < len(self.tokens):
            raise ValueError(f"position {pos} is outside the prompt's {len(self.tokens)} tokens")
        row = self.indirect_effect[pos]
        if np.isnan(row).any():
            raise ValueError(f"position {pos} was not measured; trace it by leaving `positions` out")
        return pos, int(row.argmax())

    def to_frame(self) -> pd.DataFrame:
        """One row per measured cell: position, token, in_subject, layer, site, effect, its interval, p_restored, sd."""
        n_pos, n_layers = self.restored.shape[1:]
        low, high = self.ci()
        positions = np.repeat(np.arange(n_pos), n_layers)
        frame = pd.DataFrame(
            {
                "position": positions,
                "token": [self.tokens[pos] for pos in positions],
                "in_subject": (positions >= self.subject_span[0]) & (positions < self.subject_span[1]),
                "layer": np.tile(np.arange(n_layers), n_pos),
                "site": self.config.site,
                "effect": self.indirect_effect.ravel(),
                "effect_low": low.ravel(),
                "effect_high": high.ravel(),
                "p_restored": self.mean.ravel(),
                "sd": self.sd.ravel(),
            }
        )
        return frame[frame["effect"].notna()].reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain values for a run record; NaN becomes None."""
        record = self._header()
        pos, layer = self.peak() if self._measured(self.subject_span[1] - 1) else (None, None)
        low, high = self.ci()
        record |= {
            "total_effect": self.total_effect,
            "corrupted": self.corrupted.tolist(),
            "suggested": {"position": pos, "layer": layer},
            "p_restored": _plain(self.mean),
            "effect": _plain(self.indirect_effect),
            "effect_low": _plain(low),
            "effect_high": _plain(high),
        }
        return record

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write an .npz file: the two arrays, and everything else as JSON in UTF-8 bytes (no pickle)."""
        header = np.frombuffer(json.dumps(self._header()).encode(), dtype=np.uint8)
        with open(path, "wb") as file:
            np.savez_compressed(file, header=header, corrupted=self.corrupted, restored=self.restored)

    @classmethod
    def load(cls, path: str | Path) -> TraceResult:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a saved trace.
        """
        try:
            # opened here, since np.load leaves a broken archive open
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes().decode())
                corrupted, restored = file["corrupted"], file["restored"]
            if header.pop("format") != FORMAT:
                raise KeyError("format")
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {str(path)!r}") from None
        except (KeyError, OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
            raise ValueError(f"{str(path)!r} is not a saved trace; expected what TraceResult.save wrote") from None
        header["config"] = TraceConfig(**header["config"])
        for name in ("tokens", "subject_span", "answer_ids"):
            header[name] = tuple(header[name])
        return cls(corrupted=corrupted, restored=restored, **header)

    def _paired(self) -> NDArray[np.float64]:
        """[sample, pos, layer], restored minus corrupted under the same noise."""
        return self.restored.astype(np.float64) - self.corrupted.astype(np.float64)[:, None, None]

    def _measured(self, pos: int) -> bool:
        return not bool(np.isnan(self.restored[:, pos]).any())

    def _header(self) -> dict[str, Any]:
        """Every field but the arrays, as JSON-ready values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("corrupted", "restored")}
        return {"format": FORMAT} | values | {"config": asdict(self.config)}


def _plain(array: NDArray[np.float32]) -> list[list[float | None]]:
    """A [pos, layer] array as lists, NaN as None."""
    return [[None if math.isnan(value) else float(value) for value in row] for row in array]
