"""A tuned-style lens: each layer's states translated into the last layer's before they are read.

Belrose et al. 2023 (arXiv:2303.08112) train an affine translator per layer so that its reading matches the
model's own prediction in KL.  Here the translator is the least-squares solution instead, in closed form:

    A_l, b_l = argmin  sum_t || A h_t^l + b - g_t ||^2 + ridge,     g_t = h_t^L / rms(h_t^L)

with h^l the block output of layer l and h^L the last one's; the final norm divides the scale out again.  It corrects
the drift of basis and mean from layer to layer, which the logit lens suffers from, without training.  If the KL itself
matters, the trained lens of the paper is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facts import Fact
from facts.watch import UNWATCHED, Watch
from models import LanguageModel, pad, run
from tracing.lenses.logit import LensResult, read_states
from tracing.storage import Stored


@dataclass(frozen=True, eq=False)
class TunedLens(Stored):
    """The translators of one model."""

    KIND: ClassVar[str] = "engram-tuned-lens-1"

    model_name: str
    revision: str
    n_tokens: int
    """Tokens it was fitted on."""
    weight: NDArray[np.float32]
    """[layer, d_model, d_model] of all layers but the last: the state is a row and multiplied from the left."""
    bias: NDArray[np.float32]
    """[layer, d_model]."""
    explained: NDArray[np.float32]
    """[layer], fraction of the variance of the last layer's states that the translated ones explain, on the same
    texts."""


def own_texts(model: LanguageModel, prompts: Sequence[str], max_new_tokens: int = 24) -> list[str]:
    """The prompts with the model's greedy continuations, as texts to fit a lens on without a corpus.

    Prompts that leave no room for a continuation are left out.
    """
    asked = [model.tokenize_worded(model.wording(prompt).text) for prompt in prompts]
    fitting = [prompt for prompt, ids in zip(prompts, asked, strict=True) if len(ids) < model.max_positions]
    continued = model.generate(fitting, max_new_tokens)
    return [prompt + text for prompt, text in zip(fitting, continued, strict=True)]


def fit_tuned_lens(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    ridge: float = 1e-4,
    batch_size: int = 32,
    watch: Watch = UNWATCHED,
) -> TunedLens:
    """Fit every layer's translator by least squares.

    Args:
        texts: give the states, up to the model's context length; first positions are left out, since many models have
            states of a very different size there.
        ridge: times the mean variance of the layer's states; keeps directions that the texts hardly use
            bounded.
        watch: told (texts done, texts in all).

    Raises:
        ValueError: if the model has one layer, or the texts have fewer than two tokens for each of d_model dimensions.
    """
    if model.n_layers < 2:
        raise ValueError(f"{model.name} has one layer; there is nothing to translate")
    rows = [row for text in texts if (row := model.tokenize(text)[: model.max_positions])]
    n_tokens = sum(len(row) - 1 for row in rows)
    if n_tokens < 2 * model.d_model:
        raise ValueError(
            f"the texts hold {n_tokens} tokens behind their first ones; a lens for states of {model.d_model} numbers "
            f"needs {2 * model.d_model} or more"
        )
    d_model, last = model.d_model, model.n_layers - 1
    # [layer, d_model + 1 + d_model] of a state, a one and its target, all products summed
    sums = torch.zeros(last, d_model + 1, 2 * d_model + 1, dtype=torch.float64)
    square = 0.0
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        ids, lengths = pad(part, model.pad_id)
        ran = run(model, ids, captures=[("resid_post", layer) for layer in range(model.n_layers)])
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        real[:, 0] = False
        states = [ran.captured["resid_post", layer].cpu()[real].double() for layer in range(model.n_layers)]
        target = states[last] / states[last].square().mean(-1, keepdim=True).sqrt()
        square += float(target.square().sum())
        ones = torch.ones(len(target), 1, dtype=torch.float64)
        for layer in range(last):
            sums[layer] += torch.cat([states[layer], ones], 1).T @ torch.cat([states[layer], ones, target], 1)
        watch.step(start + len(part), len(rows))
    solved = [_solve(products, square, ridge) for products in sums]
    weight, bias, explained = (torch.stack(list(column)).float().numpy() for column in zip(*solved, strict=True))
    return TunedLens(model.name, model.revision, n_tokens, weight, bias, explained)


def tuned_lens(model: LanguageModel, fact: Fact, lens: TunedLens, *, target: str = "", top_k: int = 5) -> LensResult:
    """Read every state of the clean prompt by its layer's translator, the fitted affine map; else as `logit_lens`.

    Raises:
        ValueError: as `logit_lens`, and if the lens was fitted on another model or on other weights.
    """
    if lens.revision != model.revision:
        raise ValueError(
            f"the lens was fitted on {lens.model_name} of revision {lens.revision[:12]}, not on {model.name} of "
            f"revision {model.revision[:12]}; fit one for this model"
        )

    def translate(layer: int, states: Tensor) -> Tensor:
        weight, bias = (torch.from_numpy(array[layer]).to(states.device) for array in (lens.weight, lens.bias))
        return (states.float() @ weight + bias).to(states.dtype)

    return read_states(model, fact, "tuned", translate, target=target, top_k=top_k)


def _solve(products: Tensor, square: float, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """(weight [d_model, d_model], bias [d_model], explained []) from summed products, centred before solving."""
    d_model = len(products) - 1
    count = products[d_model, d_model]
    mean, target_mean = products[:d_model, d_model] / count, products[d_model, d_model + 1 :] / count
    covariance = products[:d_model, :d_model] / count - torch.outer(mean, mean)
    cross = products[:d_model, d_model + 1 :] / count - torch.outer(mean, target_mean)
    size = ridge * covariance.diagonal().mean() * torch.eye(d_model, dtype=torch.float64)
    weight = torch.linalg.solve(covariance + size, cross)
    variance = square / count - target_mean.square().sum()
    missed = variance - 2 * (weight * cross).sum() + (weight * (covariance @ weight)).sum()
    return weight, target_mean - mean @ weight, 1 - missed / variance
