"""MEND's editor networks: from a gradient's factors to an edit's factors.

Mitchell et al. 2022, section 3 (arXiv:2110.11309).  One network for each shape of weight, shared by all weights of that
shape, which differ by a learned scale and offset ("mode").  For each token t with x_t and d_t = dL/dy_t:

    z = [(x_t - mean_x) / std_x ; (d_t - mean_d) / std_d]                                  (statistics of training)
    h = z + relu(S1[mode] * (U1 V1 z + b1) + O1[mode])                                     (equation 4a)
    g = h + relu(S2[mode] * (U2 V2 h + b2) + O2[mode])                                     (equation 4b)
    x~_t, d~_t = split(g);    delta W = -lr[weight] sum_t d~_t x~_t^T                      (equation 3)

U = 0 at the start makes the network the identity, without which training fails (the paper's ablation, table 5); V is
Xavier-uniform as in the paper's appendix A (the public code draws it from a standard normal, which needs a learning
rate of 1e-6).  Learning rates are descent steps, as in the authors' later code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from editing.train.factors import Factors
from editing.train.rows import LowRank

INITIAL_RATE = 1e-3
"""Of every weight's step, before training: a change of about one, where a weight has a norm of about twenty.  The paper
starts at 1e-4."""
EPSILON = 1e-7


class Normaliser(nn.Module):
    """Mean and standard deviation of every entry over the rows seen while training (Welford's method).

    All of it is in buffers, `count` too, so that saving and loading leaves it as it was; evaluation never changes it.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in rows [row, width]."""
        values = rows.double()
        n = len(values)
        if n == 0:
            return
        mean, total = values.mean(0), self.count + n
        gap = mean - self.mean
        self.squares += (values - mean).square().sum(0) + gap.square() * self.count * n / total
        self.mean += gap * n / total
        self.count += n

    def forward(self, rows: Tensor) -> Tensor:
        """Rows with mean 0 and standard deviation 1; as they are before anything was seen."""
        if self.count < 2:
            return rows
        std = (self.squares / (self.count - 1)).sqrt()
        normalised: Tensor = ((rows - self.mean) / (std + EPSILON)).to(rows.dtype)
        return normalised


class ResidualBlock(nn.Module):
    """h = z + relu(S[mode] * (U V z + b) + O[mode]), the identity at the start."""

    def __init__(self, width: int, rank: int, modes: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / (rank + width)) ** 0.5
        self.V = nn.Parameter((2 * torch.rand(rank, width, generator=generator) - 1) * bound)
        self.U = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.offset = nn.Parameter(torch.zeros(modes, width))

    def forward(self, z: Tensor, mode: int) -> Tensor:
        """[row, width] -> [row, width]"""
        inner = self.scale[mode] * (z @ self.V.T @ self.U.T + self.b) + self.offset[mode]
        # clamp, not relu: its slope at 0 is 1, and at the start every entry is 0
        return z + inner.clamp(min=0)


class FactorNetwork(nn.Module):
    """The editor of one shape of weight: normaliser and two residual blocks over [x ; dL/dy]."""

    def __init__(self, d_in: int, d_out: int, rank: int, modes: int, generator: torch.Generator) -> None:
        super().__init__()
        width = d_in + d_out
        self.d_in = d_in
        self.normaliser = Normaliser(width)
        rank = min(rank, width)
        self.blocks = nn.ModuleList([ResidualBlock(width, rank, modes, generator) for _ in range(2)])

    def forward(self, inputs: Tensor, grads: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """[row, d_in] and [row, d_out] -> the same shapes; in training mode the statistics take the rows in first."""
        rows = torch.cat([inputs, grads], -1)
        if self.training:
            self.normaliser.update(rows)
        states = self.normaliser(rows)
        for block in self.blocks:
            states = block(states, mode)
        return states[:, : self.d_in], states[:, self.d_in :]


class MendNetwork(nn.Module):
    """The editors of all weights.

    Args:
        shapes: parameter name -> (d_in, d_out).
        rank: of U and V; the width of the factors where that is less.
        seed: of V.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = tuple(shapes)
        groups: dict[tuple[int, int], list[str]] = {}
        for name, shape in shapes.items():
            groups.setdefault(shape, []).append(name)
        self._mode = {name: members.index(name) for members in groups.values() for name in members}
        self._key = {name: f"{d_in}x{d_out}" for (d_in, d_out), members in groups.items() for name in members}
        self.networks = nn.ModuleDict(
            {
                f"{d_in}x{d_out}": FactorNetwork(d_in, d_out, rank, len(members), generator)
                for (d_in, d_out), members in groups.items()
            }
        )
        self.rates = nn.Parameter(torch.full((len(self.names),), INITIAL_RATE))

    def forward(self, factors: Mapping[str, Factors]) -> dict[str, LowRank]:
        """Each weight's change for each edit, of rank pos; tokens the gradient does not reach contribute nothing."""
        return {name: self._change(name, index, factors[name]) for index, name in enumerate(self.names)}

    def _change(self, name: str, index: int, factors: Factors) -> LowRank:
        reached = factors.reached
        cols, rows = self.networks[self._key[name]](factors.inputs[reached], factors.grads[reached], self._mode[name])
        place = reached.nonzero(as_tuple=True)
        return LowRank(
            torch.zeros_like(factors.grads).index_put(place, -self.rates[index] * rows),
            torch.zeros_like(factors.inputs).index_put(place, cols),
        )
