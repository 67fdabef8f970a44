"""ROME, slow and obvious: plain torch hooks on the module, one text at a time, dense inverses, no cleverness.

Written from Meng et al. 2022, section 3.1 (arXiv:2202.05262), with the public code's two keys, and independently of
`editing/`: it shares only the tokenised rows.  Everything is float64 once it has left the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Token ids, the position of the fact token, and where the target's tokens begin."""

    ids: tuple[int, ...]
    lookup: int
    n_prompt: int


@dataclass(frozen=True)
class Settings:
    """What the oracle needs of a config."""

    steps: int
    learning_rate: float
    kl_factor: float
    weight_decay: float
    limit: float
    """Largest norm of delta, absolute."""
    reference_norm: float
    stop_loss: float
    ridge: float
    public_code: bool
    """KL at the subject and the public code's decay."""


def forward(module: Any, mlp: Any, down: Any, text: Text, delta: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(log probabilities [pos, d_vocab], key [d_mlp], value [d_model]) of one text, delta added at its fact token."""
    seen: dict[str, Tensor] = {}

    def on_down(_: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
        seen["key"] = inputs[0].reshape(-1, inputs[0].shape[-1])[text.lookup].detach().clone()

    def on_mlp(_: Any, __: Any, output: Tensor) -> Tensor:
        flat = output.reshape(-1, output.shape[-1])
        seen["value"] = flat[text.lookup].detach().clone()
        if delta is None:
            return output
        rows = list(flat)
        rows[text.lookup] = rows[text.lookup] + delta
        return torch.stack(rows).reshape(output.shape)

    handles = [down.register_forward_hook(on_down), mlp.register_forward_hook(on_mlp)]
    try:
        logits = module(input_ids=torch.tensor([text.ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits.float().log_softmax(-1), seen["key"].double(), seen["value"].double()


def rome(
    module: Any, mlp: Any, down: Any, texts: list[Text], essence: Text, moment: Tensor, settings: Settings
) -> Tensor:
    """The dense change of the weight [d_out, d_in]; `texts[0]` is the bare prompt."""
    with torch.no_grad():
        starts = [forward(module, mlp, down, text) for text in texts]
        base = forward(module, mlp, down, essence)[0]
    place = essence.lookup if settings.public_code else len(essence.ids) - 1
    bare_key, bare_value = starts[0][1], starts[0][2]

    delta = torch.zeros(len(bare_value), requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    for step in range(settings.steps):
        nll = torch.zeros(())
        for text in texts:
            log_probabilities = forward(module, mlp, down, text, delta)[0]
            answer = text.ids[text.n_prompt :]
            parts = [log_probabilities[text.n_prompt - 1 + i, token] for i, token in enumerate(answer)]
            nll = nll - sum(parts) / len(parts) / len(texts)
        new = forward(module, mlp, down, essence, delta)[0][place]
        loss = nll + settings.kl_factor * (new.exp() * (new - base[place])).sum()
        if settings.public_code:
            loss = loss + settings.weight_decay * delta.norm() / bare_value.norm().float() ** 2
        else:
            loss = loss + settings.weight_decay * (delta**2).sum() / settings.reference_norm**2
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if delta.norm() > settings.limit:
            delta.data = delta.data * settings.limit / delta.norm()

    shift = delta.detach().double()
    key = torch.stack([start[1] for start in starts]).mean(0)
    regular = moment.double() + settings.ridge * moment.double().diagonal().mean() * torch.eye(len(moment)).double()
    direction = torch.linalg.inv(regular) @ key
    # the direction from the mean key, residual and denominator from the bare prompt's
    return torch.outer(bare_value + shift - bare_value, direction) / (bare_key @ direction)
