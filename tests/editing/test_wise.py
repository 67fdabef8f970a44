"""WISE: margins, masks, merging and the switch by hand; the method on tiny models (Wang et al. 2024, section 3)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editing import Edit, apply_edits
from editing.applied.side import Shard, SideRewrite, fold, ties
from editing.methods import wise
from editing.methods.wise import WiseConfig, WiseMethod, margins, mask_of
from editing.parts.answers import padded
from facts.watch import Cancelled, Watch
from models import LanguageModel, as_out_in, run
from models.calls import calling
from tests.editing import made as by_hand
from tests.editing.made import OTHER, made
from tests.editing.quick import DAVIS, NEEDLE, REQUESTS, TOWER
from tests.tiny import tiny_model

FAST = WiseConfig(layer=1, steps=20, prefixes=2, irrelevant=2)


def side_of(edit: Edit) -> by_hand.SideOp:
    (op,) = edit.ops
    assert isinstance(op, by_hand.SideOp)
    return op


def test_the_margins_by_hand() -> None:
    d_in, d_out = torch.tensor([3.0, 1.0]), torch.tensor([2.0])
    # alpha 0.5: 1.5; beta 2: mean(0, 1) = 0.5; gamma 2: mean(2 - 1, 2 + 1) = 2
    assert float(margins(d_in, d_out, 0.5, 2.0, 2.0)) == pytest.approx(1.5 + 0.5 + 2.0)
    assert float(margins(torch.tensor([9.0]), torch.tensor([0.0]), 0.5, 2.0, 2.0)) == 0.0


def test_an_untrained_side_weight_sends_nobody_aside() -> None:
    model = tiny_model("gpt2")
    op = by_hand.aside(model, 1, 0, activation=0.0)
    empty = dataclasses.replace(op, change=torch.zeros_like(op.change))
    view = apply_edits(model, [made(model, empty)])
    assert torch.equal(view.logits(by_hand.IDS), model.logits(by_hand.IDS))


def test_rows_go_aside_by_the_mean_over_their_prompt() -> None:
    shard = Shard(torch.eye(2), threshold=2.0)
    rows = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [9.0, 0.0]], [[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    ends = torch.tensor([2, 2])  # the third token is an answer's: row 0 has 2.0, row 1 has 2.5
    assert SideRewrite([shard]).choose(rows, ends).tolist() == [-1, 0]
    loud = Shard(torch.eye(2) * 2, threshold=2.0)
    assert SideRewrite([shard, loud]).choose(rows, ends).tolist() == [1, 1]
    quiet = Shard(torch.eye(2) * 2, threshold=50.0)
    assert SideRewrite([shard, quiet]).choose(rows, ends).tolist() == [-1, 0]


def test_a_row_stays_where_its_prompt_sent_it_while_the_answer_is_generated() -> None:
    rewrite = SideRewrite([Shard(torch.eye(2), threshold=2.0)])
    loud, quiet = torch.tensor([[[3.0, 0.0]], [[0.5, 0.0]]]), torch.tensor([[[0.1, 0.0]], [[9.0, 0.0]]])
    with calling(torch.tensor([1, 1])) as call:
        assert rewrite(loud, torch.zeros(2, 1, 2)).tolist() == [[[3.0, 0.0]], [[0.0, 0.0]]]
        call.reads_prompt = False
        assert torch.equal(rewrite(quiet, torch.zeros(2, 1, 2)), torch.tensor([[[0.1, 0.0]], [[0.0, 0.0]]]))


def test_merging_disjoint_changes_keeps_both() -> None:
    first = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    second = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert torch.equal(ties([first, second], 1.0), first + second)


def test_merging_trims_elects_and_averages_by_hand() -> None:
    first = torch.tensor([[4.0, 1.0, -3.0, 2.0]])
    second = torch.tensor([[2.0, 5.0, 6.0, 0.5]])
    # half of each is kept: (4, -, -3, -) and (-, 5, 6, -); the third entry's sign is +, so -3 has no say
    assert ties([first, second], 0.5).tolist() == [[4.0, 5.0, 6.0, 0.0]]
    assert ties([first, second], 1.0).tolist() == [[3.0, 3.0, 6.0, 1.25]]


def test_shards_are_summed_apart_and_merged_when_asked() -> None:
    model = tiny_model("gpt2")
    ops = [by_hand.aside(model, 1, seed, shard=seed // 2, activation=float(seed + 1)) for seed in range(4)]
    apart = fold(ops)
    assert [shard.threshold for shard in apart] == pytest.approx([0.9, 2.7])
    expected = torch.zeros(ops[0].shape).flatten()
    for op in ops[:2]:
        expected[op.index] += op.change
    torch.testing.assert_close(apart[0].change.flatten().float(), expected)
    merged = fold([dataclasses.replace(op, density=0.5) for op in ops])
    assert len(merged) == 1
    assert merged[0].threshold == pytest.approx(0.9)
    torch.testing.assert_close(merged[0].change, ties([shard.change for shard in apart], 0.5))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_side_row_is_the_dense_side_weight(family: str) -> None:
    """A row that goes aside computes W' x + b, whichever way round the module stores W."""
    model = tiny_model(family)
    op = by_hand.aside(model, 1, 0)
    view = apply_edits(model, [made(model, op)])
    module = model.key_module(1)
    change = torch.zeros(op.shape).flatten().index_put((op.index,), op.change).reshape(op.shape)
    dense = model.view({op.name: model.weight(op.name) + as_out_in(module, change)})
    torch.testing.assert_close(view.logits(by_hand.IDS), dense.logits(by_hand.IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_teaches_the_answer_and_sends_only_its_own_prompt_aside(family: str) -> None:
    model = tiny_model(family)
    before = model.weights_digest()
    random_state = torch.get_rng_state()
    edit = WiseMethod().compute(model, [NEEDLE], FAST)
    assert model.weights_digest() == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert edit.losses[-1].total < edit.losses[0].total
    view = apply_edits(model, [edit])
    prompt = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    assert not torch.equal(view.logits(prompt), model.logits(prompt))
    assert edit.diagnostic("p(new) after").value > 3 * edit.diagnostic("p(new) before").value
    assert edit.diagnostic("activation elsewhere").value < edit.diagnostic("activation").value
    op = side_of(edit)
    (shard,) = fold([op])
    aside = []
    for text in (NEEDLE.fact.prompt, OTHER, "Marie Curie was born in", "Rome is", "a"):
        ids = torch.tensor([model.encode(text)])
        activation = float(shard.activation(run(model, ids, captures=[("mlp_key", 1)]).captured["mlp_key", 1]).mean())
        aside.append(activation > shard.threshold)
        assert torch.equal(view.logits(ids), model.logits(ids)) == (not aside[-1])
    assert aside[0]
    assert not all(aside)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_the_search_is_that_of_whole_forwards(family: str) -> None:
    """SGD on the whole side weight, all of it free, with all logits of forwards that start at the embedding."""
    model = tiny_model(family)
    config = dataclasses.replace(FAST, layer=2, steps=4, prefixes=0, mask_ratio=1.0, margin_unit="absolute")
    edit = WiseMethod().compute(model, [NEEDLE], config)
    edited, others = wise._rows(model, NEEDLE, config)
    (ids,), end = padded(model, edited), edited[0].n_prompt
    inside, outside = wise._inputs(model, 2, edited), wise._inputs(model, 2, others)
    change = torch.zeros(model.d_model, model.d_mlp, requires_grad=True)
    losses = []
    for _ in range(4):
        more = inside.states @ change.T
        logits = run(model, ids[None], patches={("mlp_out", 2): more.__add__}, grad=True).logits
        nll = torch.nn.functional.cross_entropy(logits[0, end - 1 : -1], ids[end:])
        loss = nll + margins(inside.activations(change), outside.activations(change), 0.25, 1.0, 0.5)
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change - config.learning_rate * gradient).detach().requires_grad_(True)
    assert [step.total for step in edit.losses] == pytest.approx(losses, rel=1e-5)


def test_nothing_outside_the_mask_moves_and_nothing_moves_far() -> None:
    model = tiny_model("gpt2")
    config = dataclasses.replace(FAST, norm_bound=0.5, learning_rate=5.0)
    op = side_of(WiseMethod().compute(model, [NEEDLE], config))
    weight = as_out_in(model.key_module(1), model.weight(op.name))
    mask = mask_of(weight, config, 0)
    assert set(op.index.tolist()) <= set(mask.tolist())
    assert len(mask) / weight.numel() == pytest.approx(0.2, abs=0.03)
    assert float(op.change.abs().max()) == pytest.approx(0.5 * float(weight.abs().mean()))
    assert not torch.equal(mask, mask_of(weight, config, 1))


def test_a_second_edit_goes_on_in_the_same_shard_and_can_be_taken_out() -> None:
    model = tiny_model("gpt2")
    config = dataclasses.replace(FAST, save_every=2)
    first = WiseMethod().compute(model, [NEEDLE], config)
    view = apply_edits(model, [first])
    second = view.with_edit(WiseMethod().compute(view, [DAVIS], config, active=view.edits)).edits[1]
    assert side_of(first).shard == side_of(second).shard == 0
    both = apply_edits(model, [first, second])
    assert torch.equal(both.without(second.digest).logits(by_hand.IDS), view.logits(by_hand.IDS))
    base = both.without(second.digest).without(first.digest)
    assert torch.equal(base.logits(by_hand.IDS), model.logits(by_hand.IDS))
    # the whole side weight, not each step of it, stays within the bound
    total = fold([side_of(first), side_of(second)])[0].change
    assert float(total.abs().max()) <= FAST.norm_bound + 1e-6


def test_a_new_shard_begins_when_one_is_full() -> None:
    model: LanguageModel = tiny_model("gpt2")
    config = dataclasses.replace(FAST, save_every=1, steps=3, shards="retrieve")
    view = model
    edits: tuple[Edit, ...] = ()
    for request in (NEEDLE, TOWER):
        view = apply_edits(view, [WiseMethod().compute(view, [request], config, active=edits)])
        edits = view.edits
    assert [side_of(edit).shard for edit in edits] == [0, 1]
    assert len(fold([side_of(edit) for edit in edits])) == 2
    merging = [dataclasses.replace(side_of(edit), density=0.53) for edit in edits]
    assert len(fold(merging)) == 1


def test_a_shard_takes_edits_in_proportion_to_the_weight() -> None:
    """Llama 2 7B's 4096 x 11008 takes the published 500; a weight of a hundredth takes 5, and none less than 1."""
    assert wise.edits_in(torch.empty(4096, 11008, device="meta"), 0.2) == 500
    assert wise.edits_in(torch.empty(4096, 110, device="meta"), 0.2) == 5
    assert wise.edits_in(torch.empty(32, 64), 0.2) == 1


def test_bad_input_is_told() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="out of range"):
        WiseMethod().compute(model, [NEEDLE], WiseConfig(layer=7))
    with pytest.raises(ValueError, match="one request at a time"):
        WiseMethod().compute(model, REQUESTS, FAST)
    with pytest.raises(ValueError, match="mask_ratio is 2"):
        WiseConfig(mask_ratio=2.0)
    with pytest.raises(Cancelled):
        WiseMethod().compute(model, [NEEDLE], FAST, watch=Watch(cancelled=lambda: True))
