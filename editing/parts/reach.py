"""What an MLP can write to the residual stream, and which output makes it write something else.

A step, a limit and "large" are lengths, in a unit that says what the place can effect (`unit_at`):

* Usually an MLP's output y is added to the stream as it is, so the unit is the norm of the stream there; where it is
  multiplied by a factor first (Granite), divided by that.
* With a post-norm (Gemma 2 and 3, OLMo 2) the stream receives g(y) = D y / |y| with D = sqrt(d) diag(gamma), a point of
  an ellipsoid whatever the length of y, which may be a thousandth of the stream's.  There the unit is |y|, or, behind
  the block, |g(y)|: a layer cannot change the stream by more.

The output that comes nearest to writing w behind a post-norm is

    y' = |y| e,    e = argmin |D e - w| over |e| = 1,

that is e_i = D_i w_i / (D_i^2 + mu) with the one mu > -min D_i^2 for which |e| = 1 (least squares on a sphere; Golub &
Van Loan, Matrix Computations, section 6.2.1).  Always |y' - y| <= 2 |y|.

Symbols: y mlp_out [d_model], gamma the norm's weight, w the wanted write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from editing.parts.answers import Answered, AnswerRow, padded, portions
from models import LanguageModel
from models.calls import calling
from models.forwards.hooks import read_states
from models.forwards.sites import Key, Site

STEPS = 200
"""Steps of the bisection for mu, each of which halves the interval."""
OWN_OUTPUT = "norm of the MLP's output"


@dataclass(frozen=True)
class Unit:
    """A norm in which step sizes, bounds and decays are measured."""

    length: float
    name: str
    """What it is the norm of, for messages."""


def unit_at(model: LanguageModel, layer: int, site: Site, output: torch.Tensor, residual: float) -> Unit:
    """The unit at mlp_out or resid_post.

    Args:
        output: [d_model], what the layer's MLP returns at the token.
        residual: norm of the block's output there.
    """
    if not model.architecture.post_norm:
        return Unit(residual / (factor(model) if site == "mlp_out" else 1.0), "residual norm")
    if site == "mlp_out":
        return Unit(float(output.norm()), OWN_OUTPUT)
    return Unit(float(written(model, layer, output).norm()), "norm of what the MLP writes")


@dataclass(frozen=True, eq=False)
class Ends:
    """What one layer's MLP reads and returns at the last tokens of some prompts."""

    keys: torch.Tensor
    """[prompt, d_mlp], float32, input of the down projection."""
    outputs: torch.Tensor
    """[prompt, d_model], float32."""
    unit: float
    """Of the MLP's output, mean over the prompts."""

    @property
    def weight_step(self) -> float:
        """Change of every entry of the down projection, of whatever sign, by which the output changes by the unit where
        all signs agree, as in a first step of Adam: sum_j |k_j| of it in each of the d_model coordinates.  0 for a
        silent layer, whose weights have no effect."""
        read = float(self.keys.abs().sum(1).mean())
        return self.unit / (self.outputs.shape[1] ** 0.5 * read) if read else 0.0


def read_ends(model: LanguageModel, layer: int, rows: Sequence[Answered]) -> Ends:
    """One layer at the end of each row's prompt."""
    sites: list[Key] = [("mlp_key", layer), ("mlp_out", layer), ("resid_post", layer)]
    read: list[list[torch.Tensor]] = [[], [], []]
    prompts = [AnswerRow(row.ids[: row.n_prompt], row.n_prompt) for row in rows]
    for portion in portions([(1, row.n_prompt) for row in prompts]):
        some = [prompts[index] for index in portion]
        lengths = torch.tensor([row.n_prompt for row in some], device=model.device)
        with calling(lengths):
            states = read_states(model, padded(model, some), sites)
        at = (torch.arange(len(some)), lengths.cpu() - 1)
        for part, site in zip(read, sites, strict=True):
            part.append(states[site][at].float())
    keys, outputs, residuals = map(torch.cat, read)
    units = [
        unit_at(model, layer, "mlp_out", output, float(residual.norm()))
        for output, residual in zip(outputs, residuals, strict=True)
    ]
    return Ends(keys, outputs, fmean(unit.length for unit in units))


def factor(model: LanguageModel) -> float:
    """By which what an MLP returns is multiplied before it is added to the residual stream."""
    name = model.architecture.factor
    return 1.0 if name is None else float(getattr(model.module.config, name))


def written(model: LanguageModel, layer: int, outputs: torch.Tensor) -> torch.Tensor:
    """What a layer's MLP writes to the residual stream when it returns `outputs`, [..., d_model] both."""
    norm = model.architecture.mlp_norm
    if norm is None:
        return factor(model) * outputs
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
        return change / factor(model)
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
