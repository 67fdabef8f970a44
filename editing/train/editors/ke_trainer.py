"""KE's outer loop: the new answer's NLL under a bound on the KL at the bystanders, by a learned multiplier.

De Cao et al. 2021, section 3.2 (arXiv:2104.08164): min over the network, max over alpha >= 0, of
NLL + alpha (KL - margin).  alpha rises while the bound is broken; the margin shrinks whenever the edits of the
validation facts succeed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editing.train.editors.ke_network import KeNetwork, condition_ids, embed_conditions
from editing.train.editors.weight_trainer import WeightSettings, WeightTrainer
from editing.train.episodes import Episode, Episodes
from editing.train.factors import Factors, gradient_factors
from editing.train.rows import LowRank
from models import LanguageModel

MEASURED = 32
"""Number of edits whose gradients give the usual norm."""
GOOD_ENOUGH = 0.9
"""Validation reliability above which the margin shrinks."""
SHRINK = 0.8


@dataclass(frozen=True)
class KeSettings(WeightSettings):
    """KE's own settings."""

    batch_sizes: tuple[int, ...] = (1,)
    """KE is trained one edit at a time, as in the paper."""
    hidden: int = 128
    condition: int = 256
    """1024 in the paper, for models fifteen times larger."""
    learning_rate: float = 2e-3
    clip: float = 1.0
    multiplier_rate: float = 0.1
    """Learning rate of alpha."""
    multiplier_limit: float = 10.0
    margin: float = 0.15
    """nats"""
    margin_floor: float = 0.01
    kept: float = 0.91


class KeState(nn.Module):
    """The network with alpha and the margin, so that a checkpoint holds all three."""

    multiplier: Tensor
    margin: Tensor

    def __init__(self, network: KeNetwork, margin: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("multiplier", torch.ones(()))
        self.register_buffer("margin", torch.tensor(margin))


class KeTrainer(WeightTrainer):
    """Trains a `KeNetwork`."""

    kind = "ke"
    learned: KeState

    def __init__(self, model: LanguageModel, settings: KeSettings, training: Episodes, validation: Episodes) -> None:
        self.own = settings
        super().__init__(model, settings, training, validation)

    def build(self) -> nn.Module:
        """The network, its multiplier and its optimiser."""
        network = KeNetwork(self.shapes, self.view.d_model, self.own.hidden, self.own.condition, self.own.seed)
        episodes = self.training.draw(random.Random(f"{self.own.seed}|scales"), MEASURED)
        network.measure(gradient_factors(self.forward, self.builder.batch(episodes).inner, self.names))
        self.optimizers = [torch.optim.Adam(network.parameters(), lr=self.own.learning_rate)]
        return KeState(network, self.own.margin)

    def propose(self, episodes: Sequence[Episode], factors: Mapping[str, Factors]) -> dict[str, LowRank]:
        """The network's changes, from gradients and the edits' words."""
        requests = [episode.request for episode in episodes]
        conditions = [
            condition_ids(self.view, request.fact.target_true, request.target_new, request.fact.prompt)
            for request in requests
        ]
        changes: dict[str, LowRank] = self.learned.network(factors, *embed_conditions(self.view, conditions))
        return changes

    def update(self, nll: Tensor, kl: Tensor) -> dict[str, float]:
        """A descent step on NLL + alpha KL for the network, an ascent step for alpha."""
        [optimizer] = self.optimizers
        optimizer.zero_grad()
        (nll + self.learned.multiplier * (kl - self.learned.margin)).backward()
        torch.nn.utils.clip_grad_norm_(self.learned.network.parameters(), self.own.clip)
        optimizer.step()
        with torch.no_grad():
            risen = self.learned.multiplier + self.own.multiplier_rate * (kl - self.learned.margin)
            self.learned.multiplier.copy_(risen.clamp(0.0, self.own.multiplier_limit))
        return {"nll": float(nll.detach()), "kl": float(kl.detach()), "multiplier": float(self.learned.multiplier)}

    def validate(self) -> dict[str, float]:
        """`WeightTrainer.validate`; then shrink the margin if the edits succeed."""
        figures = super().validate()
        if figures["reliability"] > GOOD_ENOUGH:
            self.learned.margin.mul_(SHRINK).clamp_(min=self.own.margin_floor)
        return figures | {"margin": float(self.learned.margin)}

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the network; the multiplier and the margin start again."""
        self.learned.network.load_state_dict(dict(tensors))

    def editor(self) -> Mapping[str, Tensor]:
        """The network alone."""
        return self.learned.network.state_dict()
