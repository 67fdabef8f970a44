"""MEMIT, slow and obvious: plain hooks, one text at a time, weights written in place and put back, dense inverses.

Written from Meng et al. 2023, section 4.3 and algorithm 1 (arXiv:2210.07229), with the objective of `tests.oracle.rome`
at the output of the last block; independent of `editing/` but for the tokenised rows.  `settings.public_code` is the
search of kmeng01/memit, `memit/compute_z.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracle.rome import Settings, Text


def forward(
    module: Any, block: Any, down: Any, text: Text, delta: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(log probabilities [pos, d_vocab], key [d_mlp], block output [d_model]), delta added to the block's output."""
    seen: dict[str, Tensor] = {}

    def on_down(_: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
        seen["key"] = inputs[0].reshape(-1, inputs[0].shape[-1])[text.lookup].detach().clone()

    def on_block(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        seen["hidden"] = hidden[0, text.lookup].detach().clone()
        if delta is None:
            return output
        rows = list(hidden[0])
        rows[text.lookup] = rows[text.lookup] + delta
        changed = torch.stack(rows)[None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [down.register_forward_hook(on_down), block.register_forward_hook(on_block)]
    try:
        logits = module(input_ids=torch.tensor([text.ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits.float().log_softmax(-1), seen["key"].double(), seen["hidden"].double()


def search(module: Any, block: Any, down: Any, texts: list[Text], essence: Text, settings: Settings) -> Tensor:
    """z of one fact: [d_model]."""
    with torch.no_grad():
        start = forward(module, block, down, texts[0])[2]
        place = essence.lookup if settings.public_code else -1
        base = forward(module, block, down, essence)[0][place]
    unit = 1.0 if settings.public_code else float(start.norm()) / len(start) ** 0.5
    limit = settings.limit * float(start.norm())
    delta = torch.zeros(len(start), requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate * unit)
    for step in range(settings.steps):
        nll = torch.zeros(())
        for text in texts:
            log_probabilities = forward(module, block, down, text, delta)[0]
            answer = text.ids[text.n_prompt :]
            parts = [log_probabilities[text.n_prompt - 1 + i, token] for i, token in enumerate(answer)]
            nll = nll - sum(parts) / len(parts) / len(texts)
        new = forward(module, block, down, essence, delta)[0][place]
        loss = nll + settings.kl_factor * (new.exp() * (new - base)).sum()
        length = delta.norm() if settings.public_code else (delta**2).sum()
        loss = loss + settings.weight_decay * length / start.norm().float() ** 2
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if delta.norm() > limit:
            delta.data = delta.data * limit / delta.norm()
    return start + delta.detach().double()


def memit(
    module: Any, blocks: list[Any], downs: list[Any], weights: list[Tensor], facts: list[tuple[list[Text], Text]],
    moments: list[Tensor], moment_weight: float, settings: Settings,
) -> list[Tensor]:  # fmt: skip
    """The dense change of each layer's weight, given as [d_out, d_in] views into the module's own.

    Args:
        facts: for each, its texts, the bare prompt first, and "{subject} is a".
        moment_weight: lambda, absolute.
        settings: `limit` and `learning_rate` relative to the hidden state; those of ROME's own are not read.
    """
    wanted = [search(module, blocks[-1], downs[-1], texts, essence, settings) for texts, essence in facts]
    saved = [weight.clone() for weight in weights]
    changes = []
    try:
        for index, (down, weight, moment) in enumerate(zip(downs, weights, moments, strict=True)):
            keys, missing = [], []
            for (texts, _), target in zip(facts, wanted, strict=True):
                with torch.no_grad():
                    read = [forward(module, blocks[-1], down, text) for text in texts]
                behind_contexts = torch.stack([key for _, key, _ in read[1:]]).mean(0)
                keys.append((read[0][1] + behind_contexts) / 2)
                missing.append((target - read[0][2]) / (len(downs) - index))
            k, r = torch.stack(keys, 1), torch.stack(missing, 1)
            changes.append(r @ k.T @ torch.linalg.inv(moment_weight * moment + k @ k.T))
            weight.data.copy_(weight.double() + changes[-1])
    finally:
        for weight, original in zip(weights, saved, strict=True):
            weight.data.copy_(original)
    return changes
