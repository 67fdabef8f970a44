"""MEND's outer loop: c_e NLL(new answer) + KL at the bystanders, with the step sizes learned on their own.

Mitchell et al. 2022, section 3.2 and appendix A (arXiv:2110.11309).  The step sizes have a learning rate of their own,
which the public code means to give them and does not (its second optimiser sees zeroed gradients).  Everything is
Adam's in the paper; here the networks' matrices are Muon's (Jordan et al. 2024), which learns more from a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editing.train.editors.mend_network import MendNetwork
from editing.train.editors.weight_trainer import WeightSettings, WeightTrainer
from editing.train.episodes import Episode, Episodes
from editing.train.factors import Factors
from editing.train.rows import LowRank
from models import LanguageModel


@dataclass(frozen=True)
class MendSettings(WeightSettings):
    """MEND's own settings; the paper's where they are not explained."""

    rank: int = 256
    """Of the editor network; 1920 in the paper, for models a hundred times larger."""
    edit_weight: float = 1.0
    """c_e; 0.1 in the paper."""
    matrix_learning_rate: float = 2e-3
    """Of U and V, by Muon."""
    learning_rate: float = 7e-4
    """Of offsets and scales, by Adam."""
    rate_learning_rate: float = 1e-4
    """Of the step sizes."""
    clip: float = 100.0


class MendTrainer(WeightTrainer):
    """Trains a `MendNetwork`."""

    kind = "mend"
    learned: MendNetwork

    def __init__(self, model: LanguageModel, settings: MendSettings, training: Episodes, validation: Episodes) -> None:
        self.own = settings
        super().__init__(model, settings, training, validation)

    def build(self) -> nn.Module:
        """The network, with an optimiser for its matrices and one for the rest."""
        network = MendNetwork(self.shapes, self.own.rank, self.own.seed)
        named = dict(network.named_parameters())
        matrices = [parameter for name, parameter in named.items() if name.endswith((".U", ".V"))]
        others = [parameter for name, parameter in named.items() if not name.endswith((".U", ".V", "rates"))]
        own = self.own
        self.optimizers = [
            torch.optim.Muon(matrices, lr=own.matrix_learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(
                [
                    {"params": others, "lr": own.learning_rate},
                    {"params": [network.rates], "lr": own.rate_learning_rate},
                ]
            ),
        ]
        return network

    def propose(self, episodes: Sequence[Episode], factors: Mapping[str, Factors]) -> dict[str, LowRank]:
        """The network's changes."""
        changes: dict[str, LowRank] = self.learned(factors)
        return changes

    def update(self, nll: Tensor, kl: Tensor) -> dict[str, float]:
        """A descent step on c_e NLL + KL."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        (self.own.edit_weight * nll + kl).backward()
        torch.nn.utils.clip_grad_norm_(self.learned.parameters(), self.own.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return {"nll": float(nll.detach()), "kl": float(kl.detach()), "rate": float(self.learned.rates.detach().mean())}

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """The whole network, statistics included."""
        self.learned.load_state_dict(dict(tensors))

    def editor(self) -> Mapping[str, Tensor]:
        """The whole network, statistics included."""
        return self.learned.state_dict()
