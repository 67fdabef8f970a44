"""Rows and forwards: the same numbers as the whole model, each group of rows with its own change."""

import pytest
import torch

from editing.applied.view import apply_edits
from editing.edit import Edit
from editing.ops import WeightDelta
from editing.train.factors import gradient_factors, mlp_weights, weight_shapes
from editing.train.forward import Forward
from editing.train.rows import Encoder, LowRank
from models import FAMILIES, LanguageModel, as_out_in, join
from tests.editing.train.toys import REQUEST, linear_twin, same_gradient, square_gpt2
from tests.tiny import tiny_model

PAIRS = (
    ("The Space Needle is located in the city of", "Seattle"),
    ("Miles Davis plays the", "trumpet"),
    ("Berlin", "London Madrid"),
    ("Marie Curie was born in", "Warsaw and"),
)


def by_hand(model: LanguageModel) -> torch.Tensor:
    """[token, d_vocab] at every answer token of PAIRS, row by row."""
    found = []
    for prompt, answer in PAIRS:
        ids, n_prompt = join(model, prompt, answer)
        found.append(model.logits(torch.tensor([ids]))[0, n_prompt - 1 : len(ids) - 1].log_softmax(-1))
    return torch.cat(found)


def random_changes(model: LanguageModel, layers: tuple[int, ...], edits: int) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: LowRank(
            0.1 * torch.randn(edits, 2, d_out, generator=generator),
            0.1 * torch.randn(edits, 2, d_in, generator=generator),
        )
        for name, (d_in, d_out) in weight_shapes(model, mlp_weights(model, layers)).items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_from_any_block_gives_the_model_s_own_numbers(family: str) -> None:
    model = tiny_model(family)
    digest = model.weights_digest()
    rows = Encoder(model).rows(PAIRS)
    wanted = by_hand(model)
    for first in (0, 2):
        forward = Forward(model, first)
        for _ in range(2):  # the second time with kept states
            torch.testing.assert_close(forward.log_probs(rows), wanted, rtol=1e-4, atol=1e-5)
    assert model.weights_digest() == digest
    torch.testing.assert_close(by_hand(model), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama"])
def test_every_group_of_rows_sees_its_own_change(family: str) -> None:
    model = tiny_model(family)
    rows = Encoder(model).rows(PAIRS)
    changes = random_changes(model, (2, 3), edits=2)
    for first in (0, 2):
        forward = Forward(model, first)
        with forward.changed(changes):
            found = forward.log_probs(rows)
        for group in range(2):
            ops = tuple(WeightDelta(n, c.rows[group].T, c.cols[group]) for n, c in changes.items())
            merged = by_hand(apply_edits(model, [Edit("toy", (REQUEST,), None, ops, model.revision)]))
            mine = (rows.row // 2) == group
            torch.testing.assert_close(found[mine], merged[mine], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, by_hand(model), atol=1e-3)
        torch.testing.assert_close(forward.log_probs(rows), by_hand(model), rtol=1e-4, atol=1e-5)


def test_summed_changes_add_up() -> None:
    model = tiny_model("gpt2")
    for change in random_changes(model, (3,), edits=4).values():
        dense = change.rows.transpose(1, 2) @ change.cols
        summed = change.summed(2)
        torch.testing.assert_close(
            summed.rows.transpose(1, 2) @ summed.cols, torch.stack([dense[0] + dense[1], dense[2] + dense[3]])
        )


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_factors_multiply_to_the_gradient(family: str) -> None:
    model = tiny_model(family)
    names = mlp_weights(model, (1, 3))
    rows = Encoder(model).rows(PAIRS)
    factors = gradient_factors(Forward(model, 1), rows, names)
    for name in names:
        module = model.module.get_submodule(name.rpartition(".")[0])
        for index, (prompt, answer) in enumerate(PAIRS):
            wanted = as_out_in(module, same_gradient(model, name, *join(model, prompt, answer)))
            torch.testing.assert_close(factors[name].matrices()[index], wanted, rtol=1e-3, atol=1e-6)


def test_the_last_block_s_gradient_has_the_rank_of_the_target() -> None:
    """Rank is the number of target tokens in the last block only; below, prompt + target - 1."""
    model = tiny_model("gpt2")
    ids, n_prompt = join(model, *PAIRS[2])
    rows = Encoder(model).rows([PAIRS[0], PAIRS[2]])
    factors = gradient_factors(Forward(model), rows, mlp_weights(model, range(4)))
    n_target = len(ids) - n_prompt
    assert n_target >= 2
    for name, factor in factors.items():
        reached = int(factor.reached[1].sum())
        assert reached == (n_target if ".h.3." in name else len(ids) - 1), name
        assert torch.linalg.matrix_rank(factor.matrices()[1].double(), rtol=1e-6) <= reached
        assert not factor.grads[1, len(ids) - 1 :].any(), "padding has a gradient"


@pytest.mark.parametrize("model", [tiny_model("gpt2"), square_gpt2()], ids=["wide", "square"])
def test_conv1d_and_linear_give_the_same_factors(model: LanguageModel) -> None:
    twin = linear_twin(model)
    rows = Encoder(model).rows(PAIRS)
    names = mlp_weights(model, (2, 3))
    assert mlp_weights(twin, (2, 3)) == names
    assert weight_shapes(twin, names) == weight_shapes(model, names)
    first, second = (gradient_factors(Forward(one), rows, names) for one in (model, twin))
    for name in names:
        torch.testing.assert_close(first[name].inputs, second[name].inputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(first[name].grads, second[name].grads, rtol=1e-4, atol=1e-7)


def test_names_of_mlp_weights() -> None:
    assert mlp_weights(tiny_model("gpt2"), [1]) == (
        "transformer.h.1.mlp.c_fc.weight",
        "transformer.h.1.mlp.c_proj.weight",
    )
    assert [name.split(".")[-2] for name in mlp_weights(tiny_model("llama"), [0])] == [
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    assert [name.split(".")[-2] for name in mlp_weights(tiny_model("opt"), [0])] == ["fc1", "fc2"]
    with pytest.raises(ValueError, match="layer 4 is out of range: this model has layers 0 to 3"):
        mlp_weights(tiny_model("gpt2"), [4])
