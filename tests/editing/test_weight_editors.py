"""MEND and KE as methods: what both owe their callers, then what each paper says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editing import Edit, apply_edits, get_method
from editing.files import load_edit, save_edit
from editing.methods.trained.ke import ke_network, repeats
from editing.methods.trained.learned import read_gradients
from editing.methods.trained.mend import mend_network
from editing.ops import WeightDelta
from editing.train.artefact import load_artefact, save_artefact
from editing.train.editors.ke_network import condition_ids, embed_conditions
from editing.train.factors import mlp_weights, weight_shapes
from facts.watch import Cancelled, Watch
from models import as_out_in
from tests.editing.train.toys import OTHER, REQUEST, TWO_TOKENS, linear_twin, square_gpt2
from tests.editing.trained import editor, ids_of, made, trained, written
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
KINDS = ("mend", "ke")


def deltas(edit: Edit) -> dict[str, torch.Tensor]:
    return {delta.name: delta.matrix() for delta in edit.weights}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_is_data_and_comes_off_again(kind: str, family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    editor(kind, family)  # trained before the states are noted
    ids = ids_of(model, REQUEST.fact.prompt)
    digest, generator, before = model.weights_digest(), torch.get_rng_state(), model.logits(ids)
    edit = made(kind, model, REQUEST)
    assert model.weights_digest() == digest
    assert torch.equal(torch.get_rng_state(), generator)
    assert {delta.name for delta in edit.weights} == set(mlp_weights(model, (2, 3)))
    edited = apply_edits(model, [edit])
    assert not torch.equal(edited.logits(ids), before)
    assert torch.equal(edited.without(edit.digest).logits(ids), before)
    save_edit(edit, tmp_path / "edit")
    again = load_edit(tmp_path / "edit")
    assert torch.equal(apply_edits(model, [again]).logits(ids), edited.logits(ids))
    assert edit.digest == made(kind, model, REQUEST).digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_sum_of_its_edits(kind: str) -> None:
    batch = deltas(made(kind, MODEL, REQUEST, OTHER))
    singles = [deltas(made(kind, MODEL, request)) for request in (REQUEST, OTHER)]
    for name, change in batch.items():
        torch.testing.assert_close(change, singles[0][name] + singles[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [MODEL, square_gpt2()], ids=["wide", "square"])
def test_conv1d_and_linear_get_the_same_edit(kind: str, model) -> None:  # type: ignore[no-untyped-def]
    trainer, twin = trained(kind, model), linear_twin(model)
    first = deltas(made(kind, model, TWO_TOKENS, artefact=written(trainer, model)))
    second = deltas(made(kind, twin, TWO_TOKENS, artefact=written(trainer, twin)))
    assert first.keys() == second.keys()
    for name, change in first.items():
        torch.testing.assert_close(change, second[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_on_top_of_another_is_computed_there(kind: str) -> None:
    first = made(kind, MODEL, REQUEST)
    view = apply_edits(MODEL, [first])
    second = made(kind, view, OTHER, active=(first,))
    assert deltas(second)[second.weights[0].name].shape == deltas(first)[first.weights[0].name].shape
    assert second.content != made(kind, MODEL, OTHER).content
    assert apply_edits(view, [second]).edits[1].parents == (first.digest,)
    assert any("KE edit on top of another" in warning for warning in second.warnings) == (kind == "ke")
    assert not any("on top of another" in warning for warning in first.warnings)


@pytest.mark.parametrize("kind", [*KINDS, "serac"])
def test_what_cannot_be_done_is_said(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no trained {kind} editor in .*; train one with"):
        made(kind, MODEL, REQUEST, artefact=str(tmp_path))
    with pytest.raises(ValueError, match=r"was trained for weights .* but the model has"):
        made(kind, tiny_model("gpt2", seed=1), REQUEST, artefact=editor(kind))
    with pytest.raises(ValueError, match="two requests have the prompt"):
        made(kind, MODEL, REQUEST, TWO_TOKENS)
    with pytest.raises(ValueError, match="nothing to edit"):
        made(kind, MODEL)
    method = get_method(kind)
    config = method.config_type(artefact=editor(kind))
    with pytest.raises(Cancelled):
        method.compute(MODEL, [REQUEST], config, watch=Watch(cancelled=lambda: True))
    seen: list[tuple[int, int]] = []
    method.compute(MODEL, [REQUEST], config, watch=Watch(lambda done, total, stage: seen.append((done, total))))
    assert seen[-1] == (100, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_more_edits_than_trained_for_are_warned_of(kind: str) -> None:
    third = type(REQUEST)(type(REQUEST.fact)("Colosseum", "The {} is in", "Rome"), "Paris")
    assert not made(kind, MODEL, REQUEST, OTHER).diagnostic("edits summed").warning
    warning = made(kind, MODEL, REQUEST, OTHER, third).diagnostic("edits summed").warning
    assert "3 edits were summed, but the editor was trained for sums of at most 2" in warning


# ---- MEND


def test_mend_s_rank_is_the_number_of_tokens_the_gradient_reaches() -> None:
    """Target tokens in the last block; prompt + target - 1 below it."""
    ids = MODEL.encode(TWO_TOKENS.fact.prompt)
    n_target = len(MODEL.tokenize(" Oslo Rome", special_tokens=False))
    for delta in made("mend", MODEL, TWO_TOKENS).weights:
        tokens = n_target if ".h.3." in delta.name else len(ids) + n_target - 1
        assert delta.cols.shape[0] == tokens
        assert torch.linalg.matrix_rank(delta.matrix().double(), rtol=1e-7) <= tokens


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_changes_are_multiplied_by_the_scale_that_was_settled(kind: str, tmp_path: Path) -> None:
    usual = load_artefact(Path(editor(kind)), kind, MODEL.revision)
    save_artefact(replace(usual, validation={**usual.validation, "scale": 1.5}), tmp_path)
    larger = deltas(made(kind, MODEL, REQUEST, artefact=str(tmp_path)))
    for name, change in deltas(made(kind, MODEL, REQUEST)).items():
        torch.testing.assert_close(larger[name], 1.5 * change, rtol=1e-4, atol=1e-6)


def test_mend_is_its_network_times_scale() -> None:
    artefact = load_artefact(Path(editor("mend")), "mend", MODEL.revision)
    names = mlp_weights(MODEL, (2, 3))
    network = mend_network(weight_shapes(MODEL, names), artefact)
    changes = network(read_gradients(MODEL, [REQUEST], (2, 3)).factors)
    for name, change in deltas(made("mend", MODEL, REQUEST, scale=2.0)).items():
        torch.testing.assert_close(change, 2 * (changes[name].rows[0].T @ changes[name].cols[0]), rtol=1e-4, atol=1e-6)
    assert not any(change.any() for change in deltas(made("mend", MODEL, REQUEST, scale=0.0)).values())
    with pytest.raises(ValueError, match="scale is -1; expected a number of at least 0"):
        made("mend", MODEL, REQUEST, scale=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_answer_gains_and_a_shuffled_target_does_not(kind: str) -> None:
    edit = made(kind, MODEL, REQUEST)
    after, before = edit.diagnostic("p(new) after").value, edit.diagnostic("p(new) before").value
    assert after > 1.5 * before
    ids = ids_of(MODEL, REQUEST.fact.prompt)
    other = MODEL.tokenize(" Seattle", special_tokens=False)[0]
    gain = (apply_edits(MODEL, [edit]).logits(ids) - MODEL.logits(ids))[0, -1].log_softmax(-1)
    new = MODEL.tokenize(" Paris", special_tokens=False)[0]
    assert float(gain[new]) > float(gain[other])


def test_the_diagnostics_describe_the_edit() -> None:
    edit = made("mend", MODEL, REQUEST)
    sizes = []
    for delta in edit.weights:
        assert isinstance(delta, WeightDelta)
        module = MODEL.module.get_submodule(delta.name.rpartition(".")[0])
        sizes.append(float(delta.matrix().norm() / as_out_in(module, MODEL.weight(delta.name)).norm()))
    assert edit.diagnostic("relative change").value == pytest.approx(max(sizes), rel=1e-4)
    ids, n = (
        [*MODEL.encode(REQUEST.fact.prompt), *MODEL.tokenize(" Paris", special_tokens=False)],
        len(MODEL.encode(REQUEST.fact.prompt)),
    )
    logits = apply_edits(MODEL, [edit]).logits(torch.tensor([ids]))[0].log_softmax(-1)
    wanted = logits[torch.arange(n - 1, len(ids) - 1), torch.tensor(ids[n:])].sum().exp()  # the whole answer
    assert edit.diagnostic("p(new) after").value == pytest.approx(float(wanted), rel=1e-3)


# ---- KE


def test_loop_adds_the_same_change_again() -> None:
    """A line search on one direction: n times the change, and only while the answer is not the model's own."""
    artefact = load_artefact(Path(editor("ke")), "ke", MODEL.revision)
    names = mlp_weights(MODEL, (2, 3))
    network = ke_network(weight_shapes(MODEL, names), MODEL.d_model, artefact)
    asked = read_gradients(MODEL, [REQUEST, OTHER], (2, 3))
    words = [condition_ids(MODEL, r.fact.target_true, r.target_new, r.fact.prompt) for r in (REQUEST, OTHER)]
    changes = network(asked.factors, *embed_conditions(MODEL, words))
    for most in (1, 3, 12):
        counts = repeats(asked, changes, most)
        assert bool(((counts >= 1) & (counts <= most)).all())
        edit = made("ke", MODEL, REQUEST, loop=most)
        count = edit.diagnostic("repeats").value
        once = deltas(made("ke", MODEL, REQUEST))
        for name, change in deltas(edit).items():
            torch.testing.assert_close(change, count * once[name], rtol=1e-4, atol=1e-7)
    right = asked.right({})
    assert bool((repeats(asked, changes, 12)[right] == 1).all())


def test_ke_s_rank_and_words() -> None:
    n_tokens = len(MODEL.encode(f"{REQUEST.fact.prompt} {REQUEST.target_new}")) - 1
    edit = made("ke", MODEL, REQUEST)
    assert all(delta.cols.shape[0] <= n_tokens + 1 for delta in edit.weights)
    fact = type(REQUEST.fact)(REQUEST.fact.subject, REQUEST.fact.template, "Rome", "place")
    other = made("ke", MODEL, type(REQUEST)(fact, "Paris"))
    assert edit.content != other.content
    with pytest.raises(ValueError, match="KE also reads the old answer"):
        made("ke", MODEL, type(REQUEST)(type(fact)(fact.subject, fact.template, ""), "Paris"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fact_it_has_rewritten_is_refused_until_that_edit_is_out(kind: str) -> None:
    first = made(kind, MODEL, REQUEST)
    view = apply_edits(MODEL, [first])
    again = replace(REQUEST, target_new="France")
    compute = get_method(kind).compute
    with pytest.raises(
        ValueError, match=r"already rewrites .* breaks down; remove the first, or choose another method"
    ):
        compute(view, [OTHER, again], first.config, active=view.edits)
    compute(view, [OTHER], first.config, active=view.edits)  # another fact
    compute(MODEL, [again], first.config)
