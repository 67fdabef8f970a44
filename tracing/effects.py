"""The numbers of one causal trace and the effects computed from them.  Meng et al. 2022, section 2.1 (2202.05262)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tracing.config import TraceConfig
from tracing.measures import MEASURES, Measure, Readings
from tracing.statistics import Correction, interval, significant

SMALLEST_TOTAL = 1e-6
"""A total effect below is rounding, as a difference of probabilities."""


@dataclass(frozen=True, eq=False)
class TraceEffects:
    """One causal trace: every number measured, with what is needed to measure it again, and the effects.

    Probabilities are of the whole answer: the product over its tokens under teacher forcing, computed in float32
    log space.  Effects are differences of such probabilities and are never clipped: a negative effect means that
    restoring the state made the answer less likely.  `by` gives the same trace by another measure, and everything
    here then speaks of that one.

    A trace of heads has one axis more: wherever [.., layer] stands, it is [.., layer, head].
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
    """Whether the clean model's argmax is the answer at each of its tokens: whether it knows a fact whose true answer
    was stated."""
    noise_std: float
    """Absolute standard deviation of the noise, in units of the embedding: `config.noise` x what was measured."""
    noise_source: str
    """What the standard deviation was measured on, in words."""
    engine: str
    """"packed" (one sweep through the layers for many restored runs) or "replay" (whole forwards)."""
    clean: float
    corrupted: NDArray[np.float32]
    """[sample], probability of the answer with the subject corrupted and nothing restored."""
    restored: NDArray[np.float32]
    """[sample, pos, layer], probability with that one state restored; NaN at positions that were not traced."""
    corruption: str = ""
    """What was done to the subject's embeddings, in words."""
    lead: int = 0
    """Tokens of a chat template before the prompt.  They come before the corrupted tokens, so every effect there is 0,
    and figures leave them out (`own_words`)."""
    against: str = ""
    """First token of the other answer as text, for the logit difference."""
    own_answer: bool = False
    """Whether no answer was given, so that it is the model's own and may be false."""
    measure: Measure = "probability"
    """What `clean`, `corrupted` and `restored` are."""
    others: Mapping[Measure, Readings] = field(default_factory=dict)
    """The same runs by other measures, for `by`."""

    def __post_init__(self) -> None:
        axes = "[sample, pos, layer, head]" if self.config.site == "attn_heads" else "[sample, pos, layer]"
        shape = (self.config.n_samples, len(self.tokens), *self.restored.shape[2:])
        ndim = axes.count(",") + 1
        if self.restored.shape != shape or self.restored.ndim != ndim or self.corrupted.shape != shape[:1]:
            raise ValueError(
                f"restored has shape {self.restored.shape} and corrupted {self.corrupted.shape}; "
                f"expected {axes} = {shape} and [sample]"
            )

    def own_words(self) -> Self:
        """The same trace without the chat template's tokens before the prompt."""
        if not self.lead:
            return self
        first, (start, stop) = self.lead, self.subject_span
        return replace(
            self,
            lead=0,
            tokens=self.tokens[first:],
            subject_span=(start - first, stop - first),
            restored=self.restored[:, first:],
            others={
                name: replace(readings, restored=readings.restored[:, first:]) for name, readings in self.others.items()
            },
        )

    def by(self, measure: Measure) -> Self:
        """The same trace by another measure.

        Raises:
            ValueError: if the measure is unknown or was not taken, or the corruption took nothing away, so
                that there is no fraction to restore.
        """
        if measure == self.measure:
            return self
        if measure == "fraction_restored":
            return self.by("probability")._fraction()
        if self.measure == "fraction_restored":
            return self._whole().by(measure)
        if measure not in self.others:
            taken = ", ".join(name for name in MEASURES if name in self.others or name == self.measure)
            hint = "; name another answer in TraceConfig.against" if measure == "logit_difference" else ""
            raise ValueError(f"the trace has no measure {measure!r}; it has {taken}{hint}")
        others = dict(self.others) | {self.measure: Readings(self.clean, self.corrupted, self.restored)}
        readings = others.pop(measure)
        return replace(
            self,
            measure=measure,
            clean=readings.clean,
            corrupted=readings.corrupted,
            restored=readings.restored,
            others=others,
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
        """[pos, layer], IE = mean P(restored) - mean P(corrupted): what restoring it gives back (section 2.1).

        For noising it is P(clean) - mean P(noised): what corrupting that state alone takes away.
        """
        return self.effects().mean(axis=0).astype(np.float32)

    def effects(self) -> NDArray[np.float64]:
        """[sample, pos, layer] float64, the effect of each sample: against its own corrupted run, or the clean one."""
        restored = self.restored.astype(np.float64)
        if self.config.direction == "noising":
            return self.clean - restored
        return restored - self.corrupted.astype(np.float64).reshape(-1, *[1] * (restored.ndim - 1))

    def ci(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """([pos, layer], [pos, layer]), the 95 % t-interval of the indirect effect over paired noise samples.

        Paired: each sample's restored run is compared with the corrupted run of the same noise.  NaN for one sample.
        """
        low, high = interval(self.effects())
        return low.astype(np.float32), high.astype(np.float32)

    def uncertain(self) -> NDArray[np.bool_]:
        """[pos, layer], where the 95 % interval of the indirect effect includes 0; nowhere without an interval."""
        low, high = self.ci()
        return np.asarray((low <= 0) & (high >= 0))

    def significant(self, *, alpha: float = 0.05, correction: Correction = "holm") -> NDArray[np.bool_]:
        """[pos, layer], where the indirect effect differs from 0 over samples: a paired t-test at level `alpha`, after
        correction for the number of cells.  Nowhere for one sample."""
        return significant(self.effects(), alpha=alpha, correction=correction)

    def peak(self, pos: int | None = None) -> tuple[int, int]:
        """(pos, layer) of the largest indirect effect at one position, by default the last subject token.

        It is the largest whether or not it differs from 0: `TraceResult.suggestion` says if that layer is one to begin
        editing at.

        Raises:
            ValueError: if `pos` is outside the prompt or was not measured.
        """
        pos = self.subject_span[1] - 1 if pos is None else pos
        if not 0 <= pos < len(self.tokens):
            raise ValueError(f"position {pos} is outside the prompt's {len(self.tokens)} tokens")
        row = self.indirect_effect[pos]
        if np.isnan(row).any():
            raise ValueError(f"position {pos} was not measured; trace it by leaving `positions` out")
        return pos, int(row.argmax()) // int(np.prod(row.shape[1:]))

    def _fraction(self) -> Self:
        """By the measure fraction_restored, IE / TE in every cell, made of the probabilities."""
        total, low = self.total_effect, float(self.corrupted.mean(dtype=np.float64))
        if abs(total) < SMALLEST_TOTAL:
            raise ValueError(
                f"the corruption takes {total:.1e} of the answer's probability away, so there is no fraction of it "
                "to restore; corrupt more, or choose another measure"
            )

        def scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return ((values.astype(np.float64) - low) / total).astype(np.float32)

        return replace(
            self,
            measure="fraction_restored",
            clean=1.0,
            corrupted=scaled(self.corrupted),
            restored=scaled(self.restored),
            others=dict(self.others) | {"probability": Readings(self.clean, self.corrupted, self.restored)},
        )

    def _whole(self) -> Self:
        """Back to probabilities."""
        others = dict(self.others)
        readings = others.pop("probability")
        return replace(
            self,
            measure="probability",
            clean=readings.clean,
            corrupted=readings.corrupted,
            restored=readings.restored,
            others=others,
        )
