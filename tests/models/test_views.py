"""Views: an edit nobody else can see, bit-equal to writing it."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

from models import EDITABLE_FAMILIES, LanguageModel, as_out_in, run
from tests.tiny import tiny_model

every_family = pytest.mark.parametrize("family", EDITABLE_FAMILIES)
IDS = torch.tensor([[40, 77, 130, 9, 250, 300], [3, 8, 201, 99, 17, 310]])


def edited_weight(model: LanguageModel, layer: int, seed: int) -> tuple[str, torch.Tensor]:
    """A rank-one edit of one down projection, made as [d_out, d_in] and stored as the module stores it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(model.d_model, 1, generator=generator)
    cols = torch.randn(1, model.d_mlp, generator=generator)
    name = model.architecture.key_weight_name(layer)
    module = model.key_module(layer)
    return name, model.weight(name) + as_out_in(module, 0.3 * rows @ cols)


@every_family
def test_a_view_equals_a_dense_edit_in_place_to_the_last_bit(family: str) -> None:
    model = tiny_model(family)
    digest, before = model.weights_digest(), model.logits(IDS)
    name, weight = edited_weight(model, 1, seed=0)
    dense = copy.deepcopy(model.module)
    dense.get_parameter(name).copy_(weight)
    view = model.view({name: weight})
    with torch.no_grad():
        expected = dense(input_ids=IDS).logits
    assert torch.equal(view.logits(IDS), expected)
    assert torch.equal(run(view, IDS).logits, expected)
    assert not torch.equal(expected, before)
    assert torch.equal(model.logits(IDS), before)
    assert model.weights_digest() == digest != view.weights_digest()


@every_family
def test_a_view_shares_every_tensor_but_the_replaced_one(family: str) -> None:
    model = tiny_model(family)
    name, weight = edited_weight(model, 2, seed=1)
    view = model.view({name: weight})
    base = dict(model.module.named_parameters(remove_duplicate=False)) | dict(model.module.named_buffers())
    seen = dict(view.module.named_parameters(remove_duplicate=False)) | dict(view.module.named_buffers())
    assert seen.keys() == base.keys()
    different = {key for key in base if base[key].data_ptr() != seen[key].data_ptr()}
    assert different == {name}
    assert view.weight(name).data_ptr() != weight.data_ptr()
    assert not {id(child) for child in model.module.modules()} & {id(child) for child in view.module.modules()}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gemma", "opt"])
def test_tied_embeddings_stay_tied(family: str) -> None:
    model = tiny_model(family)
    head, embedding = f"{model.architecture.head}.weight", f"{model.architecture.embedding}.weight"
    assert model.weight(head) is model.weight(embedding)
    replaced = model.view({embedding: model.weight(embedding) * 1.5})
    for view in (model.view(), replaced):
        assert view.weight(head) is view.weight(embedding)
    dense = copy.deepcopy(model.module)
    dense.get_parameter(embedding).mul_(1.5)
    with torch.no_grad():
        assert torch.equal(replaced.logits(IDS), dense(input_ids=IDS).logits)


@every_family
def test_hooks_and_traces_on_a_view_leave_the_base_alone_and_the_other_way_round(family: str) -> None:
    model = tiny_model(family)
    before = run(model, IDS).logits  # wrapped before the view is made
    view = model.view()
    assert torch.equal(run(view, IDS).logits, before)
    path = model.architecture.mlp_path(1)
    for hooked, other in ((view, model), (model, view)):
        handle = hooked.module.get_submodule(path).register_forward_hook(lambda _m, _a, output: output * 0)
        try:
            assert not torch.equal(hooked.logits(IDS), before)
            assert torch.equal(other.logits(IDS), before)
            assert torch.equal(run(other, IDS).logits, before)
        finally:
            handle.remove()
    patched = run(view, IDS, patches={("mlp_out", 1): lambda value: value * 0}).logits
    assert not torch.equal(patched, before)
    assert torch.equal(model.logits(IDS), before)
    assert model.lock is not view.lock


def test_a_view_of_a_view_keeps_the_first_edit() -> None:
    model = tiny_model("gpt2")
    (first, first_weight), (second, second_weight) = edited_weight(model, 1, 0), edited_weight(model, 2, 1)
    twice = model.view({first: first_weight}).view({second: second_weight})
    assert torch.equal(twice.logits(IDS), model.view({first: first_weight, second: second_weight}).logits(IDS))


def test_four_threads_with_different_edits_get_no_wrong_answer() -> None:
    model = tiny_model("gpt_neo")
    digest = model.weights_digest()
    views = [model.view(dict([edited_weight(model, 1, seed)])) for seed in range(4)]
    expected = [view.logits(IDS) for view in views]
    assert len({tensor.sum().item() for tensor in expected}) == 4
    wrong: list[int] = []

    def work(index: int) -> None:
        for turn in range(25):
            answer = run(views[index], IDS).logits if turn % 2 else views[index].logits(IDS)
            if not torch.equal(answer, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert model.weights_digest() == digest


def test_views_made_while_the_base_is_traced_are_right() -> None:
    model = tiny_model("llama")
    before, wrong = model.logits(IDS), []

    def trace() -> None:
        for _ in range(20):
            if not torch.equal(run(model, IDS, captures=[("mlp_out", 1)]).logits, before):
                wrong.append("base")

    def view() -> None:
        for _ in range(20):
            if not torch.equal(run(model.view(), IDS).logits, before):
                wrong.append("view")

    threads = [threading.Thread(target=work) for work in (trace, view)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_revision_follows_the_edit() -> None:
    model = tiny_model("gpt2")
    name, weight = edited_weight(model, 1, seed=0)
    assert model.view().revision == model.revision
    assert model.view({name: weight}).revision == model.view({name: weight.clone()}).revision != model.revision
    assert model.view({name: weight + 1}).revision != model.view({name: weight}).revision


def test_generation_on_a_view_is_the_edited_models() -> None:
    model = tiny_model("gpt2")
    name, weight = edited_weight(model, 1, seed=3)
    assert model.view({name: weight}).generate(["The Space Needle"], 8) != model.generate(["The Space Needle"], 8)


def test_bad_replacements_are_refused() -> None:
    model = tiny_model("gpt2")
    name = model.architecture.key_weight_name(0)
    with pytest.raises(ValueError, match=r"no parameter 'transformer\.h\.9"):
        model.view({"transformer.h.9.mlp.c_proj.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"has shape \[64, 32\], but its replacement has \[32, 64\]"):
        model.view({name: model.weight(name).T})
    with pytest.raises(ValueError, match="not finite"):
        model.view({name: model.weight(name) * float("nan")})
