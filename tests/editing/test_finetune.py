"""FT, FT-L and FT-M against plain loops, and LoRA against its plain formula."""

import math

import pytest
import torch
from torch import nn

from editing import apply_edits
from editing.edit import Edit
from editing.methods.lora import Adapter, make_adapters, target_paths
from editing.ops import DenseDelta
from editing.parts.answers import Targets, answer_row, new_answers, padded, probabilities
from editing.parts.descent import PromptEndTargets
from editing.registry import get_method
from facts import EditRequest
from models import LanguageModel, as_out_in
from tests.editing.quick import NEEDLE, REQUESTS, quick
from tests.tiny import build_tiny, tiny_model

TUNED = ("ft", "ft-l", "ft-m")


def compute(name: str, model: LanguageModel, requests=REQUESTS, **changes) -> Edit:  # type: ignore[no-untyped-def]
    return get_method(name).compute(model, requests, quick(name, "", **changes))


def one_token(model: LanguageModel) -> EditRequest:
    """The request with a new answer of a single token."""
    for word in ("the", "in", "is", "of", "capital"):
        request = EditRequest(NEEDLE.fact, word)
        (row,) = new_answers(model, [request])
        if len(row.ids) - row.n_prompt == 1:
            return request
    raise AssertionError("the tiny tokenizer has no such word")


def test_masked_loss_is_the_usual_one_with_the_prompt_masked() -> None:
    """transformers' own loss with labels of -100 on prompt and padding."""
    model = tiny_model("gpt2")
    rows = new_answers(model, REQUESTS)
    ids = padded(model, rows)
    for index, row in enumerate(rows):
        labels = torch.full((1, len(row.ids)), -100)
        labels[0, row.n_prompt :] = torch.tensor(row.ids[row.n_prompt :])
        with torch.no_grad():
            expected = model.module(input_ids=torch.tensor([row.ids]), labels=labels).loss
        torch.testing.assert_close(Targets(rows, model.device).nll(model.logits(ids))[index], expected)


def test_no_start_token_and_no_padding_is_a_target() -> None:
    model = tiny_model("gpt2")
    rows = [answer_row(model, "The Space Needle is located in the city of", "Paris"), answer_row(model, "In", "Rome")]
    targets = Targets(rows, model.device)
    answers = [token for row in rows for token in row.ids[row.n_prompt :]]
    assert targets.token.tolist() == answers
    assert model.decode(rows[0].ids[rows[0].n_prompt :]) == " Paris"
    assert targets.share.sum().item() == pytest.approx(2.0)


def test_prompt_end_loss_is_a_bag_of_tokens() -> None:
    """Every token of the answer is wanted at the prompt's last position: -mean_j log p(t_j | prompt)."""
    model = tiny_model("gpt2")
    (row,) = new_answers(model, REQUESTS[:1])
    answer = row.ids[row.n_prompt :]
    assert len(answer) > 1
    at_end = model.logits(torch.tensor([row.ids[: row.n_prompt]]))[0, -1].log_softmax(-1)
    found = PromptEndTargets([row], model.device).nll(model.logits(torch.tensor([row.ids])))
    torch.testing.assert_close(found[0], -at_end[list(answer)].mean())


@pytest.mark.parametrize("name", ["ft", "ft-m"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_change_is_that_of_a_plain_loop(name: str, family: str) -> None:
    """Adam on the weight of a second copy of the model, one text after the other."""
    model = tiny_model(family)
    edit = compute(name, model, steps=4, learning_rate=1e-3, rate_unit="absolute")
    module, _ = build_tiny(family)
    path = model.architecture.key_weight_name(1)
    weight = module.get_parameter(path)
    before = weight.clone()
    weight.requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(3):  # the last step is measured and not taken
        loss = torch.zeros(())
        for row in new_answers(model, REQUESTS):
            logits = module(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            answer = row.ids[row.n_prompt :]
            places = [row.n_prompt - 1 + (j if name == "ft-m" else 0) for j in range(len(answer))]
            loss = loss - sum(logits[p, t] for p, t in zip(places, answer, strict=True)) / len(answer) / len(REQUESTS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = as_out_in(model.key_module(1), (weight - before).detach())
    (change,) = edit.weights
    assert float((change.matrix() - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", TUNED)
def test_only_the_named_weight_changes(name: str) -> None:
    model = tiny_model("gpt2")
    edit = compute(name, model)
    (op,) = edit.ops
    assert isinstance(op, DenseDelta)
    edited = apply_edits(model, [edit])
    mine, theirs = dict(model.module.named_parameters()), dict(edited.module.named_parameters())
    changed = [path for path, value in mine.items() if not torch.equal(value, theirs[path])]
    assert changed == ["transformer.h.1.mlp.c_proj.weight"]  # and not its bias


def test_training_stops_early() -> None:
    model = tiny_model("gpt2")
    whole = compute("ft-m", model, (NEEDLE,), steps=60, learning_rate=0.03, rate_unit="absolute", stop_loss=1.0)
    assert 1 < len(whole.losses) < 60
    assert whole.losses[-1].total < 1.0
    assert all(loss.total >= 1.0 for loss in whole.losses[:-1])
    (row,) = new_answers(model, (NEEDLE,))
    (found,) = probabilities(apply_edits(model, [whole]), [row])
    expected = -whole.losses[-1].target_nll * (len(row.ids) - row.n_prompt)
    assert math.log(found) == pytest.approx(expected, rel=1e-3)  # nothing moved after it was measured


def test_the_constraint_is_held_and_reached() -> None:
    model = tiny_model("gpt2")
    mean = float(model.weight(model.architecture.key_weight_name(1)).abs().mean())
    (op,) = compute("ft-l", model, epsilon=0.002, steps=8).weights
    largest = float(op.matrix().abs().max())
    assert largest <= 0.002 * mean * 1.001 + 1e-7
    assert largest > 0.002 * mean * 0.99
    free = compute("ft", model, steps=8)
    assert float(free.weights[0].matrix().abs().max()) > 5 * largest


def test_without_room_to_move_nothing_happens() -> None:
    model = tiny_model("gpt2")
    (op,) = compute("ft-l", model, epsilon=0.0).weights
    assert not op.matrix().any()


def test_for_one_token_and_without_bounds_all_three_are_one() -> None:
    model = tiny_model("gpt2")
    request = one_token(model)
    ft, constrained, masked = (
        compute(name, model, (request,), **({"epsilon": 1e6} if name == "ft-l" else {})).weights[0].matrix()
        for name in TUNED
    )
    torch.testing.assert_close(constrained, masked, rtol=0, atol=0)
    torch.testing.assert_close(ft, masked, rtol=0, atol=0)


@pytest.mark.parametrize("name", TUNED)
def test_a_silent_layer_cannot_be_trained(name: str) -> None:
    model = tiny_model("gpt2")
    names = [f"transformer.h.1.mlp.c_fc.{kind}" for kind in ("weight", "bias")]
    silent = model.view({path: torch.zeros_like(model.weight(path)) for path in names})
    with pytest.raises(ValueError, match="no gradient in the trained weights"):
        compute(name, silent)


def test_many_rows_are_accumulated_to_the_same_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    together = compute("ft-m", model).weights[0].matrix()
    monkeypatch.setattr("editing.parts.descent.portions", lambda sizes: (range(i, i + 1) for i in range(len(sizes))))
    torch.testing.assert_close(compute("ft-m", model).weights[0].matrix(), together, rtol=1e-2, atol=1e-6)


# ---- LoRA


@pytest.mark.parametrize("targets", ["attention", "mlp"])
def test_adapters_start_from_the_model_as_it_is(targets: str) -> None:
    model = tiny_model("gpt_neo")
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    private = model.view()
    for adapter in make_adapters(private, quick("lora", "", targets=targets)):
        private.module.get_submodule(adapter.path).register_forward_hook(adapter)
    assert torch.equal(private.logits(ids), model.logits(ids))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_is_the_plain_formula_and_its_change_of_the_weight(family: str) -> None:
    model = tiny_model(family)
    path = target_paths(model, "attention")[0]
    weight = as_out_in(model.module.get_submodule(path), model.weight(f"{path}.weight"))
    generator = torch.Generator().manual_seed(1)
    rows, cols = (torch.randn(shape, generator=generator) for shape in ((weight.shape[0], 2), (2, weight.shape[1])))
    x = torch.randn(3, weight.shape[1], generator=generator)
    found = Adapter(path, rows, cols, 32 / 2)(nn.Identity(), (x,), x @ weight.T)
    torch.testing.assert_close(found, x @ weight.T + 16 * (x @ cols.T) @ rows.T)
    merged = weight + Adapter(path, rows, cols, 32 / 2).delta().matrix()
    torch.testing.assert_close(found, x @ merged.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "gpt_neox"])
def test_lora_trains_every_projection_at_its_rank(family: str) -> None:
    model = tiny_model(family)
    edit = compute("lora", model, steps=6)
    expected = model.n_layers * (1 if family in ("gpt2", "gpt_neox") else 2)  # fused, or queries and values
    assert len(edit.weights) == expected
    for delta in edit.weights:
        assert 1 <= int(torch.linalg.matrix_rank(delta.matrix())) <= 2
    if family != "gpt2":
        assert all("k_proj" not in delta.name for delta in edit.weights)


def test_the_merged_change_is_what_was_trained() -> None:
    """The loss with the adapters as hooks is the loss of the view that has their changes merged."""
    model = tiny_model("gpt2")
    edit = compute("lora", model, steps=12, learning_rate=5e-3, rate_unit="absolute")
    rows = new_answers(model, REQUESTS)
    view = apply_edits(model, [edit])
    merged = Targets(rows, model.device).nll(view.logits(padded(view, rows))).mean()
    assert float(merged) == pytest.approx(edit.losses[-1].target_nll, rel=1e-4)


def test_seeds_differ_and_unknown_attention_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    assert compute("lora", model, seed=1).digest != compute("lora", model).digest
    monkeypatch.setattr("editing.methods.lora.ATTENTION_INPUTS", frozenset({"nothing"}))
    with pytest.raises(ValueError, match="set targets to mlp"):
        compute("lora", model)
    assert compute("lora", model, targets="mlp").weights[0].name == model.architecture.key_weight_name(0)
