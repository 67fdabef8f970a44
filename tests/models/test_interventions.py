"""`models.run` against plain torch hooks, on every family."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import EDITABLE_FAMILIES, LanguageModel, as_out_in, run, run_batched
from models.architectures import architecture_named
from tests.oracle.plain_hooks import hooked
from tests.tiny import tiny_model

SITES = ("attn_heads", "attn_out", "mlp_key", "mlp_out", "resid_post")
every_family = pytest.mark.parametrize("family", EDITABLE_FAMILIES)
PLAIN_SUM = [
    family for family in EDITABLE_FAMILIES if not (arch := architecture_named(family)).post_norm and not arch.factor
]
GROWING = [family for family in EDITABLE_FAMILIES if family not in ("bloom", "gpt_bigcode")]  # tied to their batch


def some_ids(batch: int = 3, pos: int = 9) -> Tensor:
    return torch.randint(2, 384, (batch, pos), generator=torch.Generator().manual_seed(5))


def all_keys(model: LanguageModel) -> list[tuple[str, int]]:
    keys = [("embed", 0), *((site, layer) for layer in range(model.n_layers) for site in SITES)]
    return [key for key in keys if key[0] != "attn_heads" or key[1] not in model.architecture.mixed]


def heads_width(model: LanguageModel) -> int:
    """What all heads of a block give together."""
    projection = model.module.get_submodule(model.architecture.heads_path(1))
    return int(as_out_in(projection, projection.weight).shape[1])


def nudge(key: tuple[str, int]) -> Callable[[Tensor], Tensor]:
    """A patch that writes into what it is given, differently at every site."""

    def patch(value: Tensor) -> Tensor:
        value[:, 2] += 0.5 + key[1] + len(key[0])
        value[-1, 4:] *= 0.5
        return value

    return patch


@every_family
def test_capturing_everything_equals_plain_hooks_and_changes_nothing(family: str) -> None:
    model, ids = tiny_model(family), some_ids()
    keys = all_keys(model)
    expected, expected_captured = hooked(model, ids, keys, {})
    result = run(model, ids, captures=keys)
    assert torch.equal(result.logits, expected)
    assert torch.equal(result.logits, model.logits(ids))
    assert result.captured.keys() == expected_captured.keys() == set(keys)
    for key in keys:
        assert torch.equal(result.captured[key], expected_captured[key]), key
        width = model.d_mlp if key[0] == "mlp_key" else heads_width(model) if key[0] == "attn_heads" else model.d_model
        assert result.captured[key].shape == (3, 9, width)


@every_family
@pytest.mark.parametrize("site", ["embed", *SITES])
def test_one_patched_site_equals_plain_hooks(family: str, site: str) -> None:
    model, ids = tiny_model(family), some_ids()
    key = (site, 0 if site == "embed" else 3 if site == "attn_heads" else 2)
    expected, expected_captured = hooked(model, ids, all_keys(model), {key: nudge(key)})
    result = run(model, ids, captures=all_keys(model), patches={key: nudge(key)})
    assert torch.equal(result.logits, expected)
    assert not torch.equal(result.logits, model.logits(ids))
    for captured_key, value in expected_captured.items():
        assert torch.equal(result.captured[captured_key], value), captured_key


@every_family
def test_patches_everywhere_in_any_order_equal_plain_hooks(family: str) -> None:
    model, ids = tiny_model(family), some_ids()
    keys = all_keys(model)
    patches = {key: nudge(key) for key in reversed(keys)}
    expected, expected_captured = hooked(model, ids, keys, patches)
    result = run(model, ids, captures=list(reversed(keys)), patches=patches)
    assert torch.equal(result.logits, expected)
    assert all(torch.equal(result.captured[key], expected_captured[key]) for key in keys)


@pytest.mark.parametrize("family", PLAIN_SUM)
def test_attention_and_mlp_write_the_whole_difference_between_blocks(family: str) -> None:
    model = tiny_model(family)
    captured = run(model, some_ids(), captures=all_keys(model)).captured
    for layer in range(1, model.n_layers):
        written = captured["attn_out", layer] + captured["mlp_out", layer]
        torch.testing.assert_close(
            captured["resid_post", layer - 1] + written, captured["resid_post", layer], rtol=1e-5, atol=5e-6
        )


@every_family
def test_the_key_mapped_by_the_weight_is_the_mlp_output(family: str) -> None:
    model = tiny_model(family)
    captured = run(model, some_ids(), captures=[("mlp_key", 1), ("mlp_out", 1)]).captured
    output = model.key_module(1)(captured["mlp_key", 1])
    torch.testing.assert_close(output, captured["mlp_out", 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", GROWING)
def test_rows_may_be_added_after_a_block(family: str) -> None:
    """What the trace sweep does: the rows added at layer 1 go on as if each had been patched alone."""
    model, ids = tiny_model(family), some_ids(batch=1)
    noise = torch.randn(5, 9, model.d_model, generator=torch.Generator().manual_seed(1))

    def grow(value: Tensor) -> Tensor:
        return torch.cat([value, value + noise])

    grown = run(model, ids, captures=[("resid_post", 1), ("mlp_key", 2)], patches={("resid_post", 1): grow})
    assert grown.captured["resid_post", 1].shape == (6, 9, model.d_model)
    assert grown.captured["mlp_key", 2].shape == (6, 9, model.d_mlp)
    torch.testing.assert_close(grown.logits[:1], model.logits(ids), rtol=1e-5, atol=1e-5)
    for row in range(5):
        alone = run(model, ids, patches={("resid_post", 1): lambda value, row=row: value + noise[row]})
        torch.testing.assert_close(grown.logits[row + 1 : row + 2], alone.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", GROWING)
def test_rows_may_be_added_twice_and_replaced(family: str) -> None:
    model, ids = tiny_model(family), some_ids(batch=1)
    states = run(model, ids, captures=[("resid_post", 0), ("resid_post", 2)]).captured
    patches = {
        ("resid_post", 0): lambda _value: states["resid_post", 0].repeat(3, 1, 1),
        ("resid_post", 2): lambda value: torch.cat([value, states["resid_post", 2]]),
    }
    logits = run(model, ids, patches=patches, last_only=True).logits
    assert logits.shape == (4, 1, model.d_vocab)
    torch.testing.assert_close(logits, model.logits(ids)[:, -1:].expand(4, -1, -1), rtol=1e-5, atol=1e-5)


@every_family
def test_gradients_reach_a_vector_added_by_a_patch(family: str) -> None:
    """Central differences agree with autograd, as the optimisation of v* needs."""
    model, ids = tiny_model(family), some_ids(batch=2)
    delta = torch.zeros(model.d_model, requires_grad=True)

    def loss(vector: Tensor, grad: bool) -> Tensor:
        def add(value: Tensor) -> Tensor:
            return torch.cat([value[:, :4], (value[:, 4] + vector)[:, None], value[:, 5:]], dim=1)

        result = run(model, ids, patches={("mlp_out", 1): add}, grad=grad, last_only=True)
        return torch.log_softmax(result.logits[:, -1], dim=-1)[:, 7].mean()

    (gradient,) = torch.autograd.grad(loss(delta, True), delta)
    direction = gradient.detach() / gradient.norm()
    step = 1e-2
    slope = (loss(step * direction, False) - loss(-step * direction, False)) / (2 * step)
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.05, atol=1e-3)
    assert not loss(delta, False).requires_grad
    assert all(parameter.grad is None for parameter in model.module.parameters())


@every_family
def test_last_only_gives_the_last_position(family: str) -> None:
    model, ids = tiny_model(family), some_ids()
    last = run(model, ids, last_only=True).logits
    assert last.shape == (3, 1, model.d_vocab)
    torch.testing.assert_close(last, model.logits(ids)[:, -1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_the_embedding_is_patched_before_positions_are_added(family: str) -> None:
    """With every token's embedding overwritten, rows differ by position alone - and they do differ."""
    model, ids = tiny_model(family), some_ids(batch=1)
    embedded = run(model, ids, captures=[("embed", 0)]).captured["embed", 0]
    assert torch.equal(embedded, model.embedding(ids))
    same = run(model, ids, captures=[("resid_post", 0)], patches={("embed", 0): lambda value: torch.zeros_like(value)})
    state = same.captured["resid_post", 0][0]
    assert (state[0] - state[5]).abs().max() > 0.1


@every_family
def test_a_mask_and_positions_are_passed_on(family: str) -> None:
    model, ids = tiny_model(family), some_ids(batch=2)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    positions = torch.arange(9).expand(2, 9)
    expected, _ = hooked(model, ids, [], {}, attention_mask=mask, position_ids=positions)
    result = run(model, ids, attention_mask=mask, position_ids=positions)
    assert torch.equal(result.logits[1, :6], expected[1, :6])
    torch.testing.assert_close(result.logits[1, :6], model.logits(ids)[1, :6], rtol=1e-5, atol=1e-5)


def test_slices_of_a_batch_give_the_whole() -> None:
    model, ids = tiny_model("gpt_neo"), some_ids(batch=5)
    whole = run(model, ids, captures=[("mlp_key", 1)])
    sliced = run_batched(model, ids, batch_size=2, captures=[("mlp_key", 1)])
    torch.testing.assert_close(sliced.logits, whole.logits)
    torch.testing.assert_close(sliced.captured["mlp_key", 1], whole.captured["mlp_key", 1])
    with pytest.raises(ValueError, match="batch_size is 0"):
        run_batched(model, ids, batch_size=0)


def test_what_is_captured_is_a_copy_that_later_writes_do_not_reach() -> None:
    """Falcon adds attention into the MLP's output in place after it is returned; here a hook does the like."""
    model, ids = tiny_model("gpt2"), some_ids()
    clean = run(model, ids, captures=[("resid_post", 1)]).captured["resid_post", 1]
    view = model.view()
    view.module.get_submodule("transformer.h.2").register_forward_pre_hook(lambda _module, args: (args[0].add_(1.0),))
    result = run(view, ids, captures=[("resid_post", 1)])
    assert torch.equal(result.captured["resid_post", 1], clean)
    assert not torch.equal(result.logits, model.logits(ids))


def test_a_patch_may_write_to_what_it_gets_without_effect_on_the_model() -> None:
    model, ids = tiny_model("gptj"), some_ids()

    def scribble(value: Tensor) -> Tensor:
        original = value.clone()
        value.zero_()
        return original

    patches = {("embed", 0): scribble, ("attn_out", 1): scribble, ("resid_post", 1): scribble}
    assert torch.equal(run(model, ids, patches=patches).logits, model.logits(ids))
    half = run(model, ids, patches={("embed", 0): lambda value: value.mul_(0.5)}, captures=[("embed", 0)])
    assert torch.equal(half.captured["embed", 0], model.embedding(ids) * 0.5)


class OwnError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def test_an_error_in_a_patch_comes_out_as_it_is_and_leaves_the_model_usable() -> None:
    model, ids = tiny_model("llama"), some_ids()
    before = model.logits(ids)

    def fail(_value: Tensor) -> Tensor:
        raise OwnError(7)

    with pytest.raises(OwnError) as caught:
        run(model, ids, patches={("mlp_out", 2): fail})
    assert caught.value.code == 7
    assert torch.equal(run(model, ids).logits, before)
    assert torch.equal(model.logits(ids), before)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("resid_post", 4), r"layer 4 is out of range for resid_post; tiny gpt2 has layers 0 to 3"),
        (("resid_post", -1), r"layer -1 is out of range"),
        (("embed", 1), r"layer 1 is out of range for embed"),
        (("resid_mid", 0), r"unknown site 'resid_mid'; choose from embed"),
    ],
)
def test_a_site_that_does_not_exist_is_named(key: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny_model("gpt2"), some_ids(), captures=[key])


def test_a_patch_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patch at \('mlp_out', 1\) returned shape"):
        run(tiny_model("gpt2"), some_ids(), patches={("mlp_out", 1): lambda value: value[:1]})
    with pytest.raises(ValueError, match=r"expected \[batch, pos\]"):
        run(tiny_model("gpt2"), some_ids()[0])
    with pytest.raises(ValueError, match="65 tokens long; tiny gpt2 takes 64"):
        run(tiny_model("gpt2"), some_ids(pos=65))


def test_threads_that_share_a_model_never_see_each_other() -> None:
    model, ids = tiny_model("gpt2"), some_ids()
    clean, wrong = model.logits(ids), []
    patched = run(model, ids, patches={("mlp_out", 1): nudge(("mlp_out", 1))}).logits

    def trace() -> None:
        for _ in range(10):
            if not torch.equal(run(model, ids, patches={("mlp_out", 1): nudge(("mlp_out", 1))}).logits, patched):
                wrong.append("traced")

    def forward() -> None:
        for _ in range(10):
            if not torch.equal(model.logits(ids), clean):
                wrong.append("plain")

    threads = [threading.Thread(target=work) for work in (trace, forward, trace, forward)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
