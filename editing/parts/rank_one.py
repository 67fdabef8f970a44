"""The rank-one change that maps one key to one value and disturbs other keys least.

Meng et al. 2022, section 3.1, equation 2 (arXiv:2202.05262); the equations and symbols stand in `editing.methods.rome`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from editing.parts.keys import mean_key
from editing.parts.moments import Moment, factor, regular
from editing.parts.values import Compat, Start, Value

ONE_KEY: tuple[Compat, ...] = ("r-rome", "r-rome-code")


def key_direction(key: torch.Tensor, moment: Moment, ridge: float) -> torch.Tensor:
    """u, the unit vector along (C + r I)^-1 k, with r = ridge x mean eigenvalue of C: [d_mlp] -> [d_mlp], float64.

    Raises:
        ValueError: if C cannot be inverted.
    """
    solved = torch.cholesky_solve(key.double().cpu()[:, None], factor(regular(moment, ridge)))[:, 0]
    return solved / solved.norm()


def rank_one_update(
    residual: torch.Tensor, key: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the change that adds `residual` to what `key` is mapped to: ([d_out, 1], [1, d_in]).

    Raises:
        ValueError: if key and direction are orthogonal to rounding.
    """
    denominator = float(key.double() @ direction.double())
    if abs(denominator) <= 1e-12 * float(key.double().norm()):
        raise ValueError("the key is orthogonal to the direction of the update; choose another layer or fact token")
    return (residual / denominator)[:, None], direction[None, :]


@dataclass(frozen=True, eq=False)
class Solution:
    """The rank-one change with the vectors it came from, all float64 on the CPU."""

    rows: torch.Tensor
    """[d_model, 1]"""
    cols: torch.Tensor
    """[1, d_mlp]"""
    key: torch.Tensor
    """[d_mlp], the key the update is divided by: R-ROME's mean over contexts, ROME's of the bare prompt."""
    value: torch.Tensor
    """[d_model], v*."""
    denominator: float
    """u . k"""


def solve(
    weight: torch.Tensor, bias: torch.Tensor | None, start: Start, value: Value, direction: torch.Tensor, compat: Compat
) -> Solution:
    """The change of `weight` [d_model, d_mlp] from what the search found; see `editing.methods.rome`."""
    delta = value.delta.double().cpu()
    target = start.values[0].double().cpu() + delta
    if compat in ONE_KEY:
        key = mean_key(start.keys[:-1]).cpu()
        residual = target - weight.double().cpu() @ key - (0.0 if bias is None else bias.double().cpu())
    else:
        key, residual = start.keys[0].double().cpu(), delta
    rows, cols = rank_one_update(residual, key, direction)
    return Solution(rows, cols, key, target, float(key @ direction))
