"""Losses read off a head in one pass, against its logits in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.forwards import head
from models.forwards.head import head_losses, losses


def a_head(bias: bool = False, scale: float = 1.0) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(16, 101, bias=bias).requires_grad_(False)
    made.weight *= scale
    return made


def asked(n: int, m: int, made: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """States, tokens and bases near what the head says of the states."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(n + m, 16, generator=generator)
    near = made(states[n:]) + 0.1 * torch.randn(m, 101, generator=generator)
    return states, torch.randint(0, 101, (n,), generator=generator), near.log_softmax(-1)


def both(found: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """The losses, and the gradient of their sum in which each place has a weight of its own."""
    (found * torch.arange(1, len(found) + 1)).sum().backward()
    assert leaf.grad is not None
    return found.detach().double(), leaf.grad.double()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "m"), [(3, 2), (2, 0), (0, 2)])
def test_losses_and_gradients_are_those_of_the_logits(
    n: int, m: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "PIECE", 16 * 30)  # four pieces, the last one shorter
    made = a_head(bias)
    states, tokens, bases = asked(n, m, made)
    leaf = states.clone().requires_grad_()
    wide = nn.Linear(16, 101, bias=bias).double()
    wide.load_state_dict(made.state_dict())
    exact = states.double().requires_grad_()
    found = both(head_losses(leaf, made, tokens, bases), leaf)
    expected = both(losses(wide(exact), tokens, bases.double()), exact)
    for some, right in zip(found, expected, strict=True):
        torch.testing.assert_close(some, right, rtol=1e-5, atol=1e-6)


def test_by_hand() -> None:
    """Two tokens with probabilities 1/4 and 3/4 against halves."""
    made = nn.Linear(1, 2, bias=False).requires_grad_(False)
    made.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    half = torch.tensor([[0.5, 0.5]]).log()
    found = head_losses(torch.ones(2, 1), made, torch.tensor([0]), half)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.tolist() == pytest.approx([math.log(4), divergence], abs=1e-6)


def test_a_token_too_unlikely_for_float32_is_read_off_the_logits() -> None:
    made = a_head(scale=200.0)
    states, _, bases = asked(1, 1, made)
    tokens = made(states)[:1].argmin(-1)
    leaf = states.clone().requires_grad_()
    found, gradient = both(head_losses(leaf, made, tokens, bases), leaf)
    assert found[0] > 100
    assert found.isfinite().all()
    expected = losses(made(states), tokens, bases)
    torch.testing.assert_close(found, expected.double())
    assert gradient.isfinite().all()
