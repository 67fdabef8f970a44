"""What an MLP can write behind a post-norm: the nearest point of an ellipsoid, by hand and by search."""

import pytest
import torch

from editing.parts.reach import changed_outputs, nearest_direction, unit_at, written
from models import run
from tests.tiny import tiny_model

POST_NORM = ("gemma2", "gemma3_text", "olmo2", "glm4")


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_nearest_point_by_hand() -> None:
    # a circle of radius 2: straight towards what is wanted, whether it lies outside or inside
    torch.testing.assert_close(nearest_direction(tensor(2, 2), tensor(30, 40)), tensor(0.6, 0.8))
    torch.testing.assert_close(nearest_direction(tensor(2, 2), tensor(0.3, 0.4)), tensor(0.6, 0.8))
    # what is on the ellipse is met
    torch.testing.assert_close(nearest_direction(tensor(3, 1), tensor(1.8, -0.8)), tensor(0.6, -0.8))
    # inside, and nothing is wanted of the weak coordinate: it takes the length that is left
    found = nearest_direction(tensor(2, 0), tensor(1, 0))
    torch.testing.assert_close(found.abs(), tensor(0.5, 0.75**0.5))


def test_no_direction_is_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (0.1, 1.0, 10.0, 100.0):
        scale = torch.randn(3, generator=generator, dtype=torch.float64)
        wanted = length * torch.randn(3, generator=generator, dtype=torch.float64)
        best = (scale * nearest_direction(scale, wanted) - wanted).norm()
        tried = torch.randn(100_000, 3, generator=generator, dtype=torch.float64)
        distances = (scale * tried / tried.norm(dim=1, keepdim=True) - wanted).norm(dim=1)
        assert best <= distances.min() + 1e-9
        assert float(best) == pytest.approx(float(distances.min()), rel=1e-2)


@pytest.mark.parametrize("family", POST_NORM)
def test_what_can_be_written_is_written(family: str) -> None:
    """The change between what two tokens write can be made at one of them, and leads to the other's direction."""
    model = tiny_model(family)
    outputs = run(model, torch.tensor([[40, 77, 130]]), captures=[("mlp_out", 1)]).captured["mlp_out", 1][0].double().T
    now, other = outputs[:, 1:2], outputs[:, 2:3]
    writes = written(model, 1, outputs.T).T
    change = changed_outputs(model, 1, now, writes[:, 2:3] - writes[:, 1:2])
    torch.testing.assert_close(change, other * now.norm() / other.norm() - now, rtol=1e-3, atol=1e-4)
    far = changed_outputs(model, 1, now, 1e6 * torch.ones_like(now))
    assert far.norm() <= 2 * now.norm() + 1e-9


def test_without_a_norm_the_change_is_written_as_it_is() -> None:
    change = torch.randn(32, 2, dtype=torch.float64)
    assert changed_outputs(tiny_model("llama"), 1, torch.zeros_like(change), change).equal(change)
    assert written(tiny_model("llama"), 1, change.T).equal(change.T)


def test_a_factor_counts_where_what_is_returned_is_multiplied() -> None:
    model, ids = tiny_model("granite"), torch.tensor([[40, 77, 130]])
    sites = [("resid_post", 0), ("attn_out", 1), ("mlp_out", 1), ("resid_post", 1)]
    before, attn, mlp, after = (run(model, ids, captures=[site]).captured[site][0].double() for site in sites)
    torch.testing.assert_close(after - before - 0.3 * attn, written(model, 1, mlp), rtol=1e-4, atol=1e-5)
    change = torch.randn(32, 2, dtype=torch.float64)
    moved = changed_outputs(model, 1, torch.zeros_like(change), change)
    torch.testing.assert_close(written(model, 1, moved.T).T, change)
    assert unit_at(model, 1, "mlp_out", mlp[0], 6.0).length == pytest.approx(20.0)
    assert unit_at(model, 1, "resid_post", mlp[0], 6.0).length == 6.0
