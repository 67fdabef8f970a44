"""What makes queries, keys and values is kept, and not run again for rows where it is known."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from models.forwards.projections import Known, kept_projections, known_projections, projections
from tests.tiny import tiny_model

IDS = torch.tensor([[2, 3, 4], [5, 6, 7], [8, 9, 10]])


@pytest.mark.parametrize(("family", "count"), [("gpt2", 1), ("gpt_neo", 3), ("llama", 3), ("bloom", 1), ("opt", 3)])
def test_one_fused_matrix_or_three(family: str, count: int) -> None:
    model = tiny_model(family)
    found = projections(model, 1)
    assert len(found) == count
    assert model.submodules[model.architecture.heads_path(1)] not in found


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama"])
def test_known_rows_are_left_out_and_filled_in(family: str) -> None:
    model = tiny_model(family)
    kept: dict[int, tuple[Tensor, ...]] = {}
    with torch.no_grad(), kept_projections(model, kept):
        model.module(input_ids=IDS)
    assert set(kept) == set(range(model.n_layers))
    asked: list[tuple[int, tuple[int, ...]]] = []

    def fill(index: int, rows: Tensor) -> None:
        asked.append((index, tuple(rows.shape[:-1])))
        rows.copy_(kept[1][index][1:2])

    before = model.logits(IDS)
    forwards = [module.__dict__.get("forward") for module in projections(model, 1)]  # nnsight's, if it was here
    found: dict[int, tuple[Tensor, ...]] = {}
    with known_projections(model, {1: Known(range(1, 2), fill)}), kept_projections(model, found):
        assert torch.allclose(model.logits(IDS), before, atol=1e-5)
    assert sorted(asked) == [(index, (1, 3)) for index in range(len(projections(model, 1)))]
    for one, other in zip(kept[1], found[1], strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(model.logits(IDS), before)
    assert [module.__dict__.get("forward") for module in projections(model, 1)] == forwards


def test_what_is_filled_in_is_used_and_another_thread_computes_all() -> None:
    model = tiny_model("gpt2")
    (module,) = projections(model, 0)
    states = torch.randn(2, 3, model.d_model, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    expected = module(states)

    with known_projections(model, {0: Known(range(0, 1), lambda _, rows: rows.fill_(7.0))}):
        mine = module(states)
        thread = threading.Thread(target=lambda: seen.append(module(states)))
        thread.start()
        thread.join()
    assert bool((mine[0] == 7).all())
    torch.testing.assert_close(mine[1], expected[1])
    torch.testing.assert_close(seen[0], expected)


def test_anything_but_a_plain_matrix_is_left_alone() -> None:
    class Adapted(nn.Linear):
        """Not what its weight says."""

    model = tiny_model("llama")
    parent = model.submodules["model.layers.1.self_attn"]
    plain = parent.q_proj
    assert isinstance(plain, nn.Linear)
    try:
        parent.q_proj = Adapted(plain.in_features, plain.out_features)
        assert projections(model, 1) == ()
        assert len(projections(model, 0)) == 3
    finally:
        parent.q_proj = plain
