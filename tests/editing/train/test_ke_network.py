"""KE's hypernetwork and Lagrangian: the paper's properties."""

import pytest
import torch
from torch import nn

from editing.train.editors.ke_network import MAX_CONDITION, KeNetwork, condition_ids, embed_conditions, gated
from editing.train.editors.weight_trainer import WeightTrainer
from editing.train.factors import Factors, gradient_factors, mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.rows import Encoder
from tests.editing.train.toys import ke_trainer
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
NAMES = mlp_weights(MODEL, (2, 3))
SHAPES = weight_shapes(MODEL, NAMES)
PAIRS = (("The Space Needle is in", "Paris"), ("Berlin", "London Madrid"))


def factors() -> dict[str, Factors]:
    return gradient_factors(Forward(MODEL), Encoder(MODEL).rows(PAIRS), NAMES)


def conditions(*words: tuple[str, str, str]) -> tuple[torch.Tensor, list[int]]:
    return embed_conditions(MODEL, [condition_ids(MODEL, *three) for three in words])


WORDS = conditions(("Seattle", "Paris", "The Space Needle is in"), ("Rome", "London Madrid", "Berlin"))


def random_gates(d_in: int, d_out: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    draw = [torch.randn(2, n, generator=generator, dtype=torch.float64) for n in (d_out, d_in, d_out, d_in, 1)]
    return draw[0], draw[1].softmax(-1), draw[2], draw[3].softmax(-1), draw[4].sigmoid()


@pytest.mark.parametrize("name", NAMES)
def test_the_factors_are_the_paper_s_gated_gradient(name: str) -> None:
    """sigmoid(eta) (grad * a + b), dense and in float64, and its rank."""
    found = factors()[name]
    exact = Factors(found.inputs.double(), found.grads.double())
    gates = random_gates(*SHAPES[name])
    gamma_a, p_a, gamma_b, p_b, size = gates
    dense = size[..., None] * (
        exact.matrices() * (gamma_a[:, :, None] * p_a[:, None, :]) + gamma_b[:, :, None] * p_b[:, None, :]
    )
    change = gated(gates, exact)  # type: ignore[arg-type]
    torch.testing.assert_close(change.rows.transpose(1, 2) @ change.cols, dense, rtol=1e-10, atol=1e-14)
    for index in range(len(PAIRS)):
        assert torch.linalg.matrix_rank(dense[index]) <= int(exact.reached[index].sum()) + 1


def test_no_gates_no_change() -> None:
    """gamma = 0 gives exactly zero, eta -> -inf too; a zero gradient alone does not, because b stays."""
    name = NAMES[0]
    found = factors()[name]
    gamma_a, p_a, gamma_b, p_b, size = (gate.float() for gate in random_gates(*SHAPES[name]))
    closed = gated((torch.zeros_like(gamma_a), p_a, torch.zeros_like(gamma_b), p_b, size), found)
    assert not (closed.rows.transpose(1, 2) @ closed.cols).any()
    shut = gated((gamma_a, p_a, gamma_b, p_b, torch.full_like(size, -200.0).sigmoid()), found)
    assert not (shut.rows.transpose(1, 2) @ shut.cols).any()
    still = gated((gamma_a, p_a, gamma_b, p_b, size), Factors(found.inputs, torch.zeros_like(found.grads)))
    assert (still.rows.transpose(1, 2) @ still.cols).any()


def test_gates_are_shares_and_the_head_is_weight_normalised() -> None:
    network = KeNetwork(SHAPES, MODEL.d_model, hidden=8, condition=8)
    _, p_a, _, p_b, size = network.heads[0](network.read(*WORDS))
    for share in (p_a, p_b):
        torch.testing.assert_close(share.sum(-1), torch.ones(2))
    assert bool(((size > 0) & (size < 1)).all())
    for linear in (network.heads[0].first, network.heads[0].second):
        gain = linear.parametrizations["weight"].original0
        torch.testing.assert_close(linear.weight.norm(dim=1, keepdim=True), gain)


def test_the_words_decide() -> None:
    network = KeNetwork(SHAPES, MODEL.d_model, hidden=8, condition=8)
    found = {name: Factors(f.inputs[:1], f.grads[:1]) for name, f in factors().items()}
    usual = ("Seattle", "Paris", "The Space Needle is in")
    changes = [
        network(found, *conditions(words))[NAMES[0]].rows
        for words in (usual, usual, ("Rome", *usual[1:]), ("Paris", "Seattle", usual[2]), (*usual[:2], "Berlin"))
    ]
    torch.testing.assert_close(changes[0], changes[1], rtol=0, atol=0)
    for other in changes[2:]:
        assert not torch.allclose(changes[0], other, rtol=1e-4)


def test_a_condition_reads_old_new_and_prompt_and_ignores_padding() -> None:
    ids = condition_ids(MODEL, "Rome", "Paris", "Berlin")
    assert MODEL.decode(ids) == "Rome >> Paris || Berlin"
    assert len(condition_ids(MODEL, "Rome", "Paris", "Berlin " * 30)) == MAX_CONDITION
    network = KeNetwork(SHAPES, MODEL.d_model, hidden=8, condition=8)
    alone = network.read(*conditions(("Rome", "London Madrid", "Berlin")))
    torch.testing.assert_close(network.read(*WORDS)[1:], alone, rtol=1e-5, atol=1e-6)


def test_building_a_network_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (KeNetwork(SHAPES, MODEL.d_model, hidden=8, condition=8, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    named = dict(second.named_parameters())
    assert all(torch.equal(value, named[name]) for name, value in first.named_parameters())
    assert all(bool(value.isfinite().all()) and bool(value.any()) for value in named.values())


def test_the_gradient_through_a_change_is_right() -> None:
    """Meta-gradient against finite differences, float64: loss(W + delta(phi)) of one linear layer."""
    generator = torch.Generator().manual_seed(0)
    weight, x, target = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((3, 4), (2, 4), (2, 3)))
    grads = 2 * (x @ weight.T - target)
    found = Factors(x[None], grads[None])
    head = KeNetwork({"w": (4, 3)}, 5, hidden=6, condition=6, seed=1).double().heads[0]
    condition = torch.randn(1, 6, generator=generator, dtype=torch.float64).requires_grad_()

    def loss(read: torch.Tensor) -> torch.Tensor:
        change = gated(head(read), found)
        return (x @ (weight + (change.rows.transpose(1, 2) @ change.cols)[0]).T - target).square().sum()

    assert torch.autograd.gradcheck(loss, (condition,), eps=1e-6, atol=1e-6)


def test_the_first_order_factors_carry_no_graph() -> None:
    assert not any(factor.inputs.requires_grad or factor.grads.requires_grad for factor in factors().values())


def test_the_multiplier_rises_while_the_bound_is_broken_and_stays_positive() -> None:
    trainer = ke_trainer(MODEL, margin=0.1, multiplier_rate=0.5)
    nll = nn.Parameter(torch.tensor(1.0))
    trainer.update(nll * 1.0, nll * 0.7)
    assert float(trainer.learned.multiplier) == pytest.approx(1 + 0.5 * 0.6)
    for _ in range(60):
        trainer.update(nll * 1.0, nll * 0.0)
    assert float(trainer.learned.multiplier) == 0.0
    trainer.update(nll * 1.0, nll * 1000.0)
    assert float(trainer.learned.multiplier) == trainer.own.multiplier_limit


def test_training_lowers_the_loss() -> None:
    trainer = ke_trainer(MODEL, batch_sizes=(1,), margin=1.0, learning_rate=1e-2)
    losses = [trainer.step(number, 0.0)["nll"] for number in range(60)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_margin_shrinks_with_success(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = ke_trainer(MODEL, margin=0.1, margin_floor=0.07)
    for reliability, margin in ((0.9, 0.1), (0.95, 0.08), (0.95, 0.07), (0.95, 0.07)):
        figures = {"reliability": reliability, "score": 0.0}
        monkeypatch.setattr(WeightTrainer, "validate", lambda self, figures=figures: figures)
        assert trainer.validate()["margin"] == pytest.approx(margin)
