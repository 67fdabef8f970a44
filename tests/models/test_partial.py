"""Logits at a few places, and rows that change from one token on, against whole forwards on every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import FAMILIES, LanguageModel, run
from models.forwards.head import losses
from models.forwards.hooks import read_states
from models.forwards.partial import PartialForward, Reading, logits_at
from models.forwards.sites import Keep, Key
from tests.tiny import HYBRIDS, build_tiny, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
BY_BATCH = ("bloom", "mpt", *HYBRIDS)
"""ALiBi is made from the batch, so that a packed row is another one; of hybrids none is tried."""
PLACES = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([3, 10, 5, 0, 9])
STARTS = torch.tensor([3, 1, 0])


def some_ids() -> Tensor:
    return torch.randint(2, 384, (3, 11), generator=torch.Generator().manual_seed(5))


@every_family
def test_logits_at_places_are_those_of_the_whole_forward(family: str) -> None:
    model, ids = tiny_model(family), some_ids()
    torch.testing.assert_close(logits_at(model, ids, PLACES), model.logits(ids)[PLACES], rtol=1e-5, atol=1e-5)


def test_what_a_family_does_behind_the_head_is_done() -> None:
    """Gemma 2 caps its logits, Cohere scales them."""
    for family, changes in (("gemma2", {"final_logit_softcapping": 2.0}), ("cohere", {"logit_scale": 0.1})):
        module, tokenizer = build_tiny(family, **changes)
        model, ids = LanguageModel(family, "0" * 64, module, tokenizer), some_ids()
        assert not torch.allclose(model.logits(ids), tiny_model(family).logits(ids))
        torch.testing.assert_close(logits_at(model, ids, PLACES), model.logits(ids)[PLACES], rtol=1e-5, atol=1e-5)


def whole(model: LanguageModel, rows: Tensor, key: tuple[str, int], added: Tensor) -> Tensor:
    """[row, pos, d_vocab] of the chosen rows, by `models.run`."""

    def add(value: Tensor) -> Tensor:
        value[torch.arange(len(rows)), STARTS[rows]] += added
        return value

    return run(model, some_ids()[rows], patches={key: add}).logits  # type: ignore[dict-item]


@pytest.mark.parametrize("site", ["mlp_out", "resid_post"])
@every_family
def test_rows_that_change_from_a_token_on(family: str, site: str) -> None:
    model = tiny_model(family)
    for layer in range(model.n_layers):
        forward = PartialForward(model, some_ids(), (site, layer), STARTS)  # type: ignore[arg-type]
        torch.testing.assert_close(forward.logits(PLACES), model.logits(some_ids())[PLACES], rtol=1e-5, atol=1e-5)
        if (
            family not in ("bloom", "mpt") or layer < model.n_layers - 1
        ):  # behind the last attention nothing tells rows apart
            assert (forward.short is not None) == (family not in BY_BATCH)
        for rows, places in (
            (torch.arange(3), PLACES),
            (torch.tensor([2, 0]), (torch.tensor([0, 1, 1]), torch.tensor([7, 3, 8]))),
        ):
            added = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(layer))
            expected = whole(model, rows, (site, layer), added)[places]
            torch.testing.assert_close(forward.logits(places, added, rows=rows), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neo", "falcon", "bloom"])
def test_gradients_are_those_of_the_whole_forward(family: str) -> None:
    model, key = tiny_model(family), ("mlp_out", 1)
    added = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    slow, fast = (added.clone().requires_grad_() for _ in range(2))

    def add(value: Tensor) -> Tensor:
        return value.index_put((torch.arange(3), STARTS), slow, accumulate=True)

    run(model, some_ids(), patches={key: add}, grad=True).logits[PLACES].log_softmax(-1)[:, 7].sum().backward()  # type: ignore[dict-item]
    forward = PartialForward(model, some_ids(), key, STARTS)  # type: ignore[arg-type]
    forward.logits(PLACES, fast, grad=True).log_softmax(-1)[:, 7].sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-3, atol=1e-5)


def test_a_module_with_somebody_elses_hooks_is_run_whole() -> None:
    view = tiny_model("gpt2").view()
    view.module.get_submodule("transformer.h.2.mlp").register_forward_hook(lambda _, __, output: 2 * output)
    forward = PartialForward(view, some_ids(), ("mlp_out", 1), STARTS)
    torch.testing.assert_close(forward.logits(PLACES), view.logits(some_ids())[PLACES], rtol=1e-5, atol=1e-5)
    assert forward.short is None


@every_family
def test_states_are_read_and_what_is_behind_does_not_run(family: str) -> None:
    view = tiny_model(family).view()
    behind: list[int] = []
    block = view.module.get_submodule(view.architecture.block(2))
    block.register_forward_hook(lambda *_: behind.append(2))
    keys = {("resid_pre", 0), ("attn_out", 1), ("resid_post", 1)}
    found = read_states(view, some_ids(), keys)  # type: ignore[arg-type]
    assert not behind
    expected = run(tiny_model(family), some_ids(), captures=keys).captured  # type: ignore[arg-type]
    assert found.keys() == expected.keys() == keys
    for key in keys:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)  # type: ignore[index]


def asked_of(model: LanguageModel, rows: Tensor, places: tuple[Tensor, Tensor]) -> Reading:
    """-log P[7] at all places but the last one, and the KL there from the unchanged rows."""
    base = model.logits(some_ids()[rows])[places][-1:].log_softmax(-1)
    return Reading(rows, places, torch.full((len(places[0]) - 1,), 7), base)


@every_family
def test_losses_are_those_of_the_whole_forward(family: str) -> None:
    """Some cap or scale their logits behind the head, some have a bias there."""
    model, key = tiny_model(family), ("mlp_out", 1)
    reading = asked_of(model, torch.arange(3), PLACES)
    added = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    forward = PartialForward(model, some_ids(), key, STARTS)  # type: ignore[arg-type]
    found = forward.losses(reading, added)
    expected = whole(model, torch.arange(3), key, added.detach())[PLACES].log_softmax(-1)
    torch.testing.assert_close(found[:-1], -expected[:-1, 7], rtol=1e-4, atol=1e-4)
    divergence = (expected[-1].exp() * (expected[-1] - reading.bases[0])).sum()
    torch.testing.assert_close(found[-1], divergence, rtol=1e-3, atol=1e-5)
    found.sum().backward()
    fast, added.grad = added.grad, None

    def add(value: Tensor) -> Tensor:
        return value.index_put((torch.arange(3), STARTS), added, accumulate=True)

    logits = logits_at(model, some_ids(), PLACES, {key: add}, grad=True)  # type: ignore[dict-item]
    losses(logits, reading.tokens, reading.bases).sum().backward()
    torch.testing.assert_close(fast, added.grad, rtol=1e-3, atol=1e-5)


def test_which_heads_are_read_in_one_pass() -> None:
    """Not where a cap or a scale stands behind the head."""
    for family, changes, expected in (
        ("llama", {}, True),
        ("gptj", {}, True),
        ("gemma2", {"final_logit_softcapping": 2.0}, False),
        ("cohere", {"logit_scale": 0.1}, False),
    ):
        module, tokenizer = build_tiny(family, **changes)
        model = LanguageModel(family, "0" * 64, module, tokenizer)
        forward = PartialForward(model, some_ids(), ("mlp_out", 1), STARTS)
        forward.losses(asked_of(model, torch.arange(3), PLACES), torch.zeros(3, 32))
        assert forward.short is not None
        assert (forward.short.head is not None) == expected


def test_what_was_read_of_the_unchanged_rows_is_not_read_again() -> None:
    """The first pass tells the logits, visits see it, and the block below the change does not run again."""
    model = tiny_model("llama")
    forward = PartialForward(model, some_ids(), ("mlp_out", 2), STARTS)
    states: dict[Key, Tensor] = {}
    logits = forward.unchanged(PLACES, {("resid_post", 2): Keep(("resid_post", 2), states)})
    torch.testing.assert_close(logits, model.logits(some_ids())[PLACES], rtol=1e-5, atol=1e-5)
    assert states["resid_post", 2].shape == (3, 11, 32)
    assert forward.is_of(some_ids(), ("mlp_out", 2), STARTS)
    assert not forward.is_of(some_ids(), ("mlp_out", 1), STARTS)
    assert not forward.is_of(some_ids()[:, 1:], ("mlp_out", 2), STARTS)
    noted = forward.short
    assert noted is not None
    forward.logits(PLACES)
    assert forward.short is noted
