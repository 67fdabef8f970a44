"""EMMET: MEMIT's batch with ROME's equality, so that every new key is mapped exactly to its value.

Gupta et al. 2024, section 4, equation 10 (arXiv:2403.14236).  Among all changes with delta K = R the one that disturbs
the old keys least is

    delta = R (K^T C^-1 K + e I)^-1 K^T C^-1,    C = E[k k^T] over old keys;

one request and e = 0 give ROME's rank-one change.  K^T C^-1 K is singular when two keys are alike, as those of two
facts about one subject are; e, in units of its mean diagonal entry, keeps the change finite then.

Symbols: K keys [d_mlp, n], R [d_model, n], e slack x mean diagonal of K^T C^-1 K, C Moment.matrix with the ridge.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from editing.configs import check_config
from editing.edit import Diagnostic
from editing.method import Task
from editing.methods.spread import SpreadConfig, SpreadMethod, Update
from editing.parts.moments import Moment, factor, regular


@dataclass(frozen=True, kw_only=True)
class EmmetConfig(SpreadConfig):
    """Settings of EMMET.

    Raises:
        ValueError: if a value is out of its range.
    """

    slack: float = field(
        default=1e-3,
        metadata={
            "help": "How far the new values may be missed where keys are alike, in units of the keys' mean square; 0 "
            "maps every key exactly.",
            "min": 0.0,
            "max": 1e6,
        },
    )

    def __post_init__(self) -> None:
        check_config(self)


def emmet_directions(keys: torch.Tensor, moment: torch.Tensor, slack: float) -> torch.Tensor:
    """(K^T C^-1 K + e I)^-1 K^T C^-1: [d_mlp, n], [d_mlp, d_mlp] -> [n, d_mlp], float64.

    Raises:
        ValueError: if C or, without slack, the keys' products cannot be inverted.
    """
    whitened = torch.cholesky_solve(keys, factor(moment))
    products = keys.T @ whitened
    products = products + slack * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(products)
    if int(failed):
        raise ValueError("two of the new keys are equal, so they cannot be mapped to different values; raise slack")
    return torch.cholesky_solve(whitened.T, lower)


class EmmetMethod(SpreadMethod):
    """`METHODS["emmet"]`."""

    name = "emmet"
    title = "EMMET"
    config_type = EmmetConfig

    def update(self, task: Task, moments: dict[int, Moment]) -> Update:
        """EMMET's update."""
        return _Emmet(task.config, moments)


class _Emmet:
    def __init__(self, config: EmmetConfig, moments: dict[int, Moment]) -> None:
        self.config, self.moments = config, moments

    def directions(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        return emmet_directions(keys, regular(self.moments[layer], self.config.ridge), self.config.slack)

    def diagnostics(self) -> list[Diagnostic]:
        help_text = "Added to the keys' products before they are inverted."
        return [Diagnostic("slack", self.config.slack, "x mean square", help_text)]
