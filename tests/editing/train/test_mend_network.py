"""MEND's network and outer loop: the paper's properties."""

import copy

import pytest
import torch

from editing.methods.trained.learned import scaled
from editing.train.editors.mend_network import INITIAL_RATE, MendNetwork, Normaliser
from editing.train.factors import Factors, gradient_factors, mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.rows import Encoder
from tests.editing.train.toys import mend_trainer
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
NAMES = mlp_weights(MODEL, (2, 3))
SHAPES = weight_shapes(MODEL, NAMES)
PAIRS = (("The Space Needle is in", "Paris"), ("Berlin", "London Madrid"), ("Miles Davis plays the", "Rome"))


def factors() -> dict[str, Factors]:
    return gradient_factors(Forward(MODEL), Encoder(MODEL).rows(PAIRS), NAMES)


def test_the_normaliser_is_mean_and_standard_deviation() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 2
    normaliser = Normaliser(3)
    torch.testing.assert_close(normaliser(rows), rows)
    for part in rows.split(7):
        normaliser.update(part)
    torch.testing.assert_close(normaliser(rows), (rows - rows.mean(0)) / rows.std(0), rtol=1e-4, atol=1e-5)


def test_evaluation_and_saving_leave_the_statistics_alone() -> None:
    network = MendNetwork(SHAPES, rank=8).train()
    network(factors())
    saved = copy.deepcopy(network.state_dict())
    assert saved["networks.32x64.normaliser.count"] > 0
    network.eval()(factors())
    fresh = MendNetwork(SHAPES, rank=8, seed=9)
    fresh.load_state_dict(saved)
    for one in (network.state_dict(), fresh.eval().state_dict()):
        assert all(torch.equal(one[name], saved[name]) for name in saved)
    wanted, found = network(factors()), fresh(factors())
    assert all(torch.equal(wanted[name].rows, found[name].rows) for name in NAMES)
    fresh.train()(factors())  # the counter is a buffer: training goes on from the loaded statistics
    assert fresh.state_dict()["networks.32x64.normaliser.count"] == 2 * saved["networks.32x64.normaliser.count"]


def test_an_untrained_network_is_a_gradient_step() -> None:
    """Identity at the start: with no statistics, delta W = -lr grad; with them, the same of normalised factors."""
    network = MendNetwork(SHAPES, rank=8).eval()
    found = factors()
    for name, change in network(found).items():
        step = change.rows.transpose(1, 2) @ change.cols
        torch.testing.assert_close(step, -INITIAL_RATE * found[name].matrices(), rtol=1e-4, atol=1e-9)
    network.train()(found)
    for name, change in network.eval()(found).items():
        normaliser = network.networks["x".join(map(str, SHAPES[name]))].normaliser
        reached = found[name].reached
        rows = torch.cat([found[name].inputs, found[name].grads], -1)[reached]
        torch.testing.assert_close(change.cols[reached], normaliser(rows)[:, : SHAPES[name][0]])
        torch.testing.assert_close(change.rows[reached], -INITIAL_RATE * normaliser(rows)[:, SHAPES[name][0] :])
        assert not change.cols[~reached].any()
        assert not change.rows[~reached].any()


def test_weights_of_one_shape_share_a_network_and_differ_by_scale_and_offset() -> None:
    network = MendNetwork(SHAPES, rank=8)
    assert sorted(network.networks) == ["32x64", "64x32"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rows = torch.randn(5, 32), torch.randn(5, 64)
    editor = network.eval().networks["32x64"]
    assert not torch.allclose(editor(*rows, 0)[0], editor(*rows, 1)[0])
    with torch.no_grad():
        for block in editor.blocks:
            block.scale[1] = block.scale[0]
            block.offset[1] = block.offset[0]
    torch.testing.assert_close(editor(*rows, 0), editor(*rows, 1))


def test_an_edit_does_not_depend_on_the_others_of_its_batch() -> None:
    network = MendNetwork(SHAPES, rank=8).eval()
    together = network(factors())
    for index, pair in enumerate(PAIRS):
        alone = network(gradient_factors(Forward(MODEL), Encoder(MODEL).rows([pair]), NAMES))
        for name in NAMES:
            n = alone[name].rows.shape[1]
            torch.testing.assert_close(together[name].rows[index, :n], alone[name].rows[0], rtol=1e-3, atol=1e-8)
            assert not together[name].rows[index, n:].any()


def test_small_steps_descend() -> None:
    forward, rows = Forward(MODEL), Encoder(MODEL).rows(PAIRS)
    changes = MendNetwork(SHAPES, rank=8).eval()(gradient_factors(forward, rows, NAMES))
    before = rows.nll(forward.log_probs(rows))
    for factor, better in ((100.0, True), (-100.0, False)):
        with forward.changed(scaled(changes, torch.full((3,), factor))), torch.no_grad():
            assert bool(((rows.nll(forward.log_probs(rows)) < before) == better).all())


def test_step_sizes_move_at_their_own_rate() -> None:
    """In the public code they stay where they are."""
    trainer = mend_trainer(MODEL, rate_learning_rate=0.01)
    trainer.step(0, 0.0)
    moved = (trainer.learned.rates.detach() - INITIAL_RATE).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0.05, atol=0)


def test_training_works_and_a_random_network_does_not() -> None:
    trainer = mend_trainer(MODEL, batch_sizes=(1,), learning_rate=1e-2, rate_learning_rate=1e-2, edit_weight=1.0)
    before = trainer.validate()["reliability"]
    losses = [trainer.step(number, 0.0)["nll"] for number in range(90)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert before <= 0.125
    assert trainer.validate()["reliability"] >= 0.5
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the control: the same step sizes on a network that learned nothing
        for name, parameter in trainer.learned.named_parameters():
            if name != "rates":
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    assert trainer.validate()["reliability"] <= 0.25


def test_batch_sizes_must_divide_the_step() -> None:
    with pytest.raises(ValueError, match="3 summed edits do not divide 4 edits of a step"):
        mend_trainer(MODEL, batch_sizes=(1, 3))
