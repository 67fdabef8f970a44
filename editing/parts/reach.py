"""What an MLP can write to the residual stream, and which output makes it write something else.

Without a norm behind the MLP, its output y is added to the stream as it is.  With a post-norm (Gemma 2 and 3, OLMo 2)
the stream receives g(y) = D y / |y| with D = sqrt(d) diag(gamma), a point of an ellipsoid whatever the length of y.
The output that comes nearest to writing w is then

    y' = |y| e,    e = argmin |D e - w| over |e| = 1,

that is e_i = D_i w_i / (D_i^2 + mu) with the one mu > -min D_i^2 for which |e| = 1 (least squares on a sphere; Golub &
Van Loan, Matrix Computations, section 6.2.1).  Always |y' - y| <= 2 |y|.

Symbols: y mlp_out [d_model], gamma the norm's weight, w the wanted write.
"""

from __future__ import annotations

import torch

from models import LanguageModel

STEPS = 200
"""Steps of the bisection for mu, each of which halves the interval."""


def written(model: LanguageModel, layer: int, outputs: torch.Tensor) -> torch.Tensor:
    """What a layer's MLP writes to the residual stream when it returns `outputs`, [..., d_model] both."""
    norm = model.architecture.mlp_norm
    if norm is None:
        return outputs
    with torch.no_grad():
        normed: torch.Tensor = model.submodules[f"{model.architecture.block(layer)}.{norm}"](outputs.to(model.dtype))
    return normed.to(outputs)


def changed_outputs(model: LanguageModel, layer: int, outputs: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """The change of the MLP's outputs for which what it writes changes by `change`, as nearly as possible.

    Args:
        outputs: [d_model, n], float64; what the MLP returns now.
        change: [d_model, n], float64; wanted change of what the residual stream receives.

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
    direction = scale * wanted / (squares + high)
    # where `wanted` lies inside and nothing is wanted of the weakest coordinate, it takes what is left of the length
    rest = (1 - direction.square().sum() + direction[least].square()).clamp_min(0).sqrt()
    direction[least] = torch.where(direction[least] < 0, -rest, rest)
    return direction / direction.norm()
