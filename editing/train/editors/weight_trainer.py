"""Meta-training of MEND and KE, which share everything but network and objective."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editing.train.episodes import SPLIT_SEED, Episode, Episodes
from editing.train.factors import Factors, gradient_factors, mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.outer import BatchBuilder, EpisodeBatch, outcome, shares
from editing.train.rows import LowRank
from models import LanguageModel

LOCALITY_WANTED = 0.9
"""Below this same-relation locality an editor's score is reduced by four times the difference.  Most of these prompts
share the edit's words and its true object; of other subjects of the relation more are kept."""
SCALES = (0.8, 1.0, 1.1, 1.2, 1.3, 1.5)
"""Factors tried on a finished editor's changes."""
SINGLE_WEIGHT = 4.0
"""Of single edits in the score, the usual case, where the largest sum weighs 1."""


@dataclass(frozen=True)
class WeightSettings:
    """How an editor of weights is built and trained.

    Raises:
        ValueError: if the batch sizes do not divide the edits of a step, or a number is not positive.
    """

    layers: tuple[int, ...]
    """Blocks whose MLP weights are edited."""
    edits_per_step: int = 16
    """Or the number of summed edits, if larger."""
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    """Numbers of edits that are summed into one change, up to the largest that the editor is trained for."""
    single_share: float = 0.5
    """Share of the training, at its start, in which edits are not summed."""
    summed_share: float = 0.25
    """Share of the later steps in which several edits are summed."""
    paraphrases: int = 2
    locality: int = 4
    prefixed: float = 0.0
    """Share of the paraphrases that follow another sentence; they make a step half as long again."""
    by_relation: bool = True
    """Draw all relations equally often, however few facts they have."""
    mixed_precision: bool = True
    """The outer pass of a training step in bfloat16; gradients, networks and validation stay in float32."""
    validation_edits: int = 128
    kept: float = 0.95
    """Share of other facts of the relation, and of all bystanders, that the chosen scale should keep."""
    seed: int = 0
    split_seed: int = SPLIT_SEED
    network: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the network."""

    def __post_init__(self) -> None:
        for name in ("edits_per_step", "paraphrases", "locality", "validation_edits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        most = max((self.edits_per_step, *self.batch_sizes))
        for count in (self.edits_per_step, most):
            wrong = [n for n in self.batch_sizes if n < 1 or (n <= count and count % n)]
            if wrong:
                raise ValueError(
                    f"{wrong[0]} summed edits do not divide {count} edits of a step; choose another number"
                )


def early_layers(model: LanguageModel) -> tuple[int, ...]:
    """Blocks before the fact is read, where a change can affect one subject alone.  At the last token, which late
    blocks edit, subjects with the same answer look alike.  (The papers edit the last three blocks.)"""
    return tuple(sorted({round(model.n_layers * share) for share in (1 / 12, 1 / 6, 1 / 4)}))


class WeightTrainer(ABC):
    """Draws episodes, lets the network propose changes, and measures the changed model.

    Args:
        training, validation: where episodes come from.
    """

    kind: str
    optimizers: Sequence[torch.optim.Optimizer]

    def __init__(
        self, model: LanguageModel, settings: WeightSettings, training: Episodes, validation: Episodes
    ) -> None:
        self.forward = Forward(model, min(settings.layers))
        self.view = self.forward.view
        self.base_revision = model.revision
        self.plan = settings
        self.names = mlp_weights(model, settings.layers)
        self.shapes = weight_shapes(model, self.names)
        self.settings: Mapping[str, Any] = asdict(settings)
        self.training = training
        self.builder = BatchBuilder(self.forward)
        self.learned = self.build()
        self._validation = self._validation_batches(validation, settings.validation_edits)
        self._any_subject = validation.of_any_subject()

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, with whatever else is learned; sets `optimizers`."""

    @abstractmethod
    def propose(self, episodes: Sequence[Episode], factors: Mapping[str, Factors]) -> dict[str, LowRank]:
        """The change of every weight for every edit."""

    @abstractmethod
    def update(self, nll: Tensor, kl: Tensor) -> dict[str, float]:
        """One step of the optimisers from the mean NLL of the new answers and the mean KL at the bystanders."""

    @abstractmethod
    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from an artefact's tensors."""

    @abstractmethod
    def editor(self) -> Mapping[str, Tensor]:
        """The tensors of an artefact."""

    def step(self, number: int, share: float) -> dict[str, float]:
        """One update; see `loop.Trainer`."""
        source = random.Random(f"{self.plan.seed}|{number}")
        n = self.summed_edits(source, share)
        mixed = torch.autocast(self.view.device.type, torch.bfloat16, enabled=self.plan.mixed_precision)
        with mixed:
            batch = self.builder.batch(self.training.draw(source, max(self.plan.edits_per_step, n)))
        self.learned.train()
        on_cpu = self.view.device.type == "cpu"  # where the backward of fused attention takes a third of a step
        attention = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
        with torch.enable_grad(), attention:
            changes = self._changes(batch, n)
            with mixed:
                result = outcome(self.forward, batch, changes)
            losses = self.update(result.nll.mean(), result.kl.mean())
        return {**losses, "summed": float(n)}

    def summed_edits(self, source: random.Random, share: float) -> int:
        """How many edits a step sums: one at first, later sometimes several."""
        several = [n for n in self.plan.batch_sizes if n > 1]
        if share < self.plan.single_share or not several or source.random() < 1 - self.plan.summed_share:
            return 1
        return source.choice(several)

    def _changes(self, batch: EpisodeBatch, n: int) -> dict[str, LowRank]:
        factors = gradient_factors(self.forward, batch.inner, self.names)
        return {name: change.summed(n) for name, change in self.propose(batch.episodes, factors).items()}

    def _validation_batches(self, validation: Episodes, count: int) -> list[EpisodeBatch]:
        size = max(self.plan.edits_per_step, *self.plan.batch_sizes)
        source = random.Random(f"{self.plan.seed}|validation")
        return [self.builder.batch(validation.draw(source, size)) for _ in range(0, count, size)]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Shares for single edits, and for the largest sum under names that end in its number; `score` is (reliability
        + generalization) / 2, less what same-relation locality lacks, a mean over both."""
        self.learned.eval()
        figures: dict[str, float] = {}
        scores = []
        for n in dict.fromkeys((1, max(self.plan.batch_sizes))):
            shown = self._figures(n)
            missing = max(0.0, LOCALITY_WANTED - shown["locality_same_relation"])
            scores.append((shown["reliability"] + shown["generalization"]) / 2 - 4 * missing)
            figures |= {name if n == 1 else f"{name}_{n}": value for name, value in shown.items()}
        weights = (SINGLE_WEIGHT, 1.0)[: len(scores)]
        figures["score"] = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
        return figures

    def _figures(self, n: int) -> dict[str, float]:
        good, cases, kls = Counter[str](), Counter[str](), []
        for batch in self._validation:
            result = outcome(self.forward, batch, self._changes(batch, n))
            kls.append(float(result.kl.mean()))
            for name, (successes, count) in shares(batch, result).items():
                good[name] += successes
                cases[name] += count
        # 1 if the unedited model answers no bystander
        figures = {name: good[name] / cases[name] if cases[name] else 1.0 for name in cases}
        return figures | {"kl": sum(kls) / len(kls)}

    @torch.no_grad()
    def calibrate(self) -> dict[str, float]:
        """The scale of single changes that does best on edits of validation subjects, with its figures.

        The highest (reliability + generalization) / 2 among the scales that keep enough (`WeightSettings.kept`); where
        none does, the scale that keeps most.  Training balances both by a weight chosen beforehand; this settles the
        balance by what it gives.
        """
        self.learned.eval()
        tried = [(scale, Counter[str](), Counter[str]()) for scale in SCALES]
        for batch in self._validation_batches(self._any_subject, 2 * self.plan.validation_edits):
            changes = self._changes(batch, 1)
            for scale, good, cases in tried:
                larger = {name: LowRank(scale * change.rows, change.cols) for name, change in changes.items()}
                for name, (successes, count) in shares(batch, outcome(self.forward, batch, larger)).items():
                    good[name] += successes
                    cases[name] += count

        def worth(entry: tuple[float, Counter[str], Counter[str]]) -> tuple[float, float]:
            _, good, cases = entry
            share = {name: good[name] / max(1, cases[name]) for name in cases}
            kept = min(share["locality_same_relation"], share["locality"])
            return min(kept, self.plan.kept), (share["reliability"] + share["generalization"]) / 2

        scale, good, cases = max(tried, key=worth)
        return {"scale": scale} | {f"{name}_at_scale": good[name] / cases[name] for name in cases if cases[name]}
