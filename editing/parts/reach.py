"""What an MLP can write, and what it has to return to write something else.

Where nothing stands behind an MLP, what it returns is what is added to the residual stream.  Behind a post-norm (Gemma
2 and 3, OLMo 2) the stream gets g(y) = D y / |y| of what the MLP returns, y, with D = sqrt(d) diag(gamma): a point of
an ellipsoid, whatever the length of y.  A wanted write w is then met as nearly as it can be by

    y' = |y| e,    e = argmin |D e - w| over |e| = 1,

which is e_i = D_i w_i / (D_i^2 + mu) with the one mu > -min D_i^2 that gives |e| = 1 (a least-squares problem on a
sphere; Golub & Van Loan, Matrix Computations, section 6.2.1).  |y' - y| <= 2 |y| whatever is wanted.

Symbols: y mlp_out [d_model], gamma the norm's weight, w the wanted write.
"""

from __future__ import annotations

import torch

from models import LanguageModel

STEPS = 200
"""Of the bisection for mu: each halves the interval, in float64."""


def written(model: LanguageModel, layer: int, outputs: torch.Tensor) -> torch.Tensor:
    """What reaches the residual stream of what a layer's MLP returns, [..., d_model] both."""
    norm = model.architecture.mlp_norm
    if norm is None:
        return outputs
    with torch.no_grad():
        found: torch.Tensor = model.submodules[f"{model.architecture.block(layer)}.{norm}"](outputs.to(model.dtype))
    return found.to(outputs)


def changed_outputs(model: LanguageModel, layer: int, outputs: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """By how much the MLP's outputs have to change so that what it writes changes by `change`, as nearly as can be.

    Args:
        outputs: [d_model, n], float64; what it returns now.
        change: [d_model, n], float64; of what is added to the residual stream.

    Returns:
        [d_model, n], float64.
    """
    if not model.architecture.post_norm:
        return change
    wanted = written(model, layer, outputs.T).T + change
    width = len(outputs)
    scale = width**0.5 * written(model, layer, torch.ones(width, dtype=torch.float64))
    directions = torch.stack([nearest_direction(scale, column) for column in wanted.T], dim=1)
    return outputs.norm(dim=0) * directions - outputs


def nearest_direction(scale: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The unit vector e for which `scale` * e is nearest to `wanted`: [d], [d] -> [d], float64."""
    squares = scale.square()
    least = squares.argmin()
    low, high = -squares[least], (scale * wanted).norm()  # |e| <= 1 at the upper end, since mu alone divides more
    for _ in range(STEPS):
        middle = (low + high) / 2
        longer = (scale * wanted / (squares + middle)).square().sum() > 1
        low, high = (middle, high) if longer else (low, middle)
    found = scale * wanted / (squares + high)
    # where `wanted` lies inside and nothing is wanted of the weakest coordinate, it takes what is left of the length
    rest = (1 - found.square().sum() + found[least].square()).clamp_min(0).sqrt()
    found[least] = torch.where(found[least] < 0, -rest, rest)
    return found / found.norm()
