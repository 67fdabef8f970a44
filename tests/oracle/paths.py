"""Path patching as its definition says: plain hooks, one sample, one receiver, three forwards."""

from __future__ import annotations

import torch
from torch import Tensor

from models import LanguageModel
from tests.oracle.plain_hooks import Key, hooked


def path_probability(
    model: LanguageModel,
    ids: list[int],
    subject: range,
    embeddings: Tensor,
    sender: tuple[str, int, int],
    receiver: tuple[str, int, int] | None,
    *,
    noising: bool,
    mlps: bool,
) -> float:
    """Probability of the token after `ids` with the path from sender to receiver patched; None is the logits.

    `embeddings` [n_subject, d_model] are the corrupted ones; nodes are (site, layer, pos).
    """
    row = torch.tensor([ids])
    modules: list[Key] = [(site, layer) for layer in range(model.n_layers) for site in ("attn_out", "mlp_out")]
    sent: Key = sender[:2]

    def corrupt(state: Tensor) -> Tensor:
        state[0, subject.start : subject.stop] = embeddings
        return state

    corruption = {("embed", 0): corrupt}
    _, clean = hooked(model, row, [*modules, sent], {})
    _, corrupted = hooked(model, row, [*modules, sent], corruption)
    base, source = (clean, corrupted) if noising else (corrupted, clean)
    start = {} if noising else corruption
    noted: dict[Key, Tensor] = {}
    patches = dict(start)
    for key in {*modules, sent}:

        def visit(state: Tensor, key: Key = key) -> Tensor:
            noted[key] = state.clone()
            if key in modules and not (mlps and key[0] == "mlp_out"):
                state = base[key].clone()
            if key == sent:
                state[0, sender[2]] = source[key][0, sender[2]]
            return state

        patches[key] = visit
    logits, _ = hooked(model, row, [], patches)
    if receiver is not None:
        received: Key = receiver[:2]

        def replace(state: Tensor) -> Tensor:
            state[0, receiver[2]] = noted[received][0, receiver[2]]
            return state

        logits, _ = hooked(model, row, [], {**start, received: replace})
    return float(torch.softmax(logits[0, -1], -1)[answer(clean_logits(model, row))])


def clean_logits(model: LanguageModel, row: Tensor) -> Tensor:
    """[d_vocab] at the last position."""
    return hooked(model, row, [], {})[0][0, -1]


def answer(logits: Tensor) -> int:
    """The greedy token."""
    return int(logits.argmax())
