"""R-ROME, slow and obvious, as its authors' code has it: plain torch hooks, one text at a time, a dense inverse.

Written from github.com/scalable-model-editing/rebuilding-rome at 82b789f (`rome/compute_u.py`, `rome/compute_v.py` with
`enable_random_prefix_keys`; Gupta et al. 2024, arXiv:2403.07175), and independently of `editing/`: it shares only the
tokenised rows.  Everything is float64 once it has left the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.oracle.rome import Settings, Text, forward


@dataclass(frozen=True)
class Found:
    """What the authors' code computes on its way, and the change."""

    u: Tensor
    """[d_mlp], the left vector."""
    target: Tensor
    """[d_model], v*."""
    change: Tensor
    """[d_model, d_mlp]"""


def r_rome(
    module: Any, mlp: Any, down: Any, texts: list[Text], essence: Text, moment: Tensor, settings: Settings
) -> Found:
    """The change of the down projection's weight [d_out, d_in]; `texts[0]` is the bare prompt."""
    with torch.no_grad():
        keys = torch.stack([forward(module, mlp, down, text)[1] for text in texts])
        outputs = torch.stack([forward(module, mlp, down, text)[2] for text in texts])
        kl_before = forward(module, mlp, down, essence)[0]
    inverse = torch.linalg.inv(moment + settings.ridge * moment.diagonal().mean() * torch.eye(len(moment)).double())
    left = inverse @ keys.mean(0)
    left = left / left.norm()

    target_init = outputs[0]
    delta = _search(module, mlp, down, texts, essence, kl_before, target_init, settings)
    target = target_init + delta
    right = (target - outputs.mean(0)) / torch.dot(keys.mean(0), left)
    return Found(left, target, torch.outer(right, left))


def _search(
    module: Any, mlp: Any, down: Any, texts: list[Text], essence: Text, kl_before: Tensor, target_init: Tensor,
    settings: Settings,
) -> Tensor:  # fmt: skip
    place = essence.lookup if settings.public_code else len(essence.ids) - 1
    delta = torch.zeros(len(target_init), requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    for step in range(settings.steps):
        optimiser.zero_grad()
        nll = [_nll(forward(module, mlp, down, text, delta)[0], text) for text in texts]
        kl_log_probs = forward(module, mlp, down, essence, delta)[0][place]
        # its first argument is the one that is compared with: KL(after || before)
        kl = torch.nn.functional.kl_div(kl_before[place], kl_log_probs, log_target=True, reduction="sum")
        decay = delta.norm() / target_init.norm() ** 2
        if not settings.public_code:
            decay = delta.square().sum() / settings.reference_norm**2
        loss = torch.stack(nll).mean() + settings.kl_factor * kl + settings.weight_decay * decay
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        loss.backward()
        optimiser.step()
        if delta.norm() > settings.limit:
            delta.data = delta.data * settings.limit / delta.norm()
    return delta.detach().double()


def _nll(log_probs: Tensor, text: Text) -> Tensor:
    answer = text.ids[text.n_prompt :]
    return -torch.stack([log_probs[text.n_prompt - 1 + i, token] for i, token in enumerate(answer)]).mean()
