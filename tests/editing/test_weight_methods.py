"""What holds for every method that changes weights, whatever its formula."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from editing import apply_edits
from editing.edit import Edit
from editing.files import load_edit, save_edit
from editing.method import FAMILIES, NEEDS
from editing.registry import get_method
from facts.watch import Cancelled, Watch
from models import LanguageModel
from tests.editing.quick import NEEDLE, QUICK, REQUESTS, asked, quick, twins
from tests.tiny import tiny_model

NAMES = tuple(QUICK)
BATCHED = tuple(name for name in NAMES if get_method(name).batch)
SINGLE = tuple(name for name in NAMES if not get_method(name).batch)
LAYERED = tuple(name for name in NAMES if "layer" in get_method(name).config_type.__dataclass_fields__)


def compute(name: str, model: LanguageModel, corpus: str) -> Edit:
    return get_method(name).compute(model, asked(name), quick(name, corpus))


def dense(edit: Edit) -> dict[str, torch.Tensor]:
    return {op.name: op.matrix().double() for op in edit.weights}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "gptj", "opt"])
@pytest.mark.parametrize("name", NAMES)
def test_computing_writes_nothing_and_undo_is_exact(name: str, family: str, small_corpus: str) -> None:
    model = tiny_model(family)
    before, random_state = model.weights_digest(), torch.get_rng_state()
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    logits = model.logits(ids)
    edit = compute(name, model, small_corpus)
    assert model.weights_digest() == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not torch.equal(apply_edits(model, [edit]).logits(ids), logits)
    assert torch.equal(apply_edits(model, []).logits(ids), logits)
    assert torch.equal(model.logits(ids), logits)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_settings_give_the_same_edit_and_its_file_reads_back(
    name: str, tmp_path: Path, small_corpus: str
) -> None:
    model = tiny_model("gpt2")
    edit = compute(name, model, small_corpus)
    torch.rand(3)  # the global generator plays no part
    assert compute(name, model, small_corpus).digest == edit.digest
    save_edit(edit, tmp_path / "edit.safetensors")
    read = load_edit(tmp_path / "edit.safetensors")
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    assert torch.equal(apply_edits(model, [read]).logits(ids), apply_edits(model, [edit]).logits(ids))
    assert read.config == edit.config
    assert read.requests == edit.requests


@pytest.mark.parametrize("changes", [{}, {"n_inner": 32}], ids=["wide", "square"])
@pytest.mark.parametrize("name", NAMES)
def test_conv1d_and_linear_twins_get_the_same_change(name: str, changes: dict[str, int], small_corpus: str) -> None:
    """Also where d_mlp = d_model, so that the shape does not tell which way a weight lies."""
    ours, theirs = (dense(compute(name, model, small_corpus)) for model in twins(**changes))
    assert ours.keys() == theirs.keys()
    for weight, change in ours.items():
        assert float((change - theirs[weight]).norm() / change.norm()) < 1e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name != "kn"])
def test_training_lowers_the_loss(name: str, small_corpus: str) -> None:
    losses = compute(name, tiny_model("gpt2"), small_corpus).losses
    assert len(losses) > 1
    assert losses[-1].total < losses[0].total


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_every_edit_has(name: str, small_corpus: str) -> None:
    edit = compute(name, tiny_model("gpt2"), small_corpus)
    assert 0 < edit.diagnostic("relative change").value < float("inf")
    for number in ("p(new) before", "p(new) after"):
        assert 0 <= edit.diagnostic(number).value <= 1
    assert edit.seconds
    assert edit.parameters_changed > 0


@pytest.mark.parametrize("name", NAMES)
def test_progress_rises_to_the_end(name: str, small_corpus: str) -> None:
    seen: list[tuple[int, int]] = []
    get_method(name).compute(
        tiny_model("gpt2"),
        asked(name),
        quick(name, small_corpus),
        watch=Watch(lambda done, total, stage: seen.append((done, total))),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (100, 100)
    assert len(seen) > 3


@pytest.mark.parametrize("name", NAMES)
def test_cancelling_leaves_no_trace(name: str, small_corpus: str) -> None:
    model = tiny_model("gpt2")
    before = model.weights_digest()
    for allowed in (0, 2):
        answers = iter([False] * allowed)
        with pytest.raises(Cancelled):
            get_method(name).compute(
                model,
                asked(name),
                quick(name, small_corpus),
                watch=Watch(cancelled=lambda answers=answers: next(answers, True)),
            )
    assert model.weights_digest() == before


@pytest.mark.parametrize("name", SINGLE)
def test_methods_for_one_fact_say_so(name: str, small_corpus: str) -> None:
    with pytest.raises(ValueError, match="takes one request at a time, but 3 were given"):
        get_method(name).compute(tiny_model("gpt2"), REQUESTS, quick(name, small_corpus))


@pytest.mark.parametrize("name", BATCHED)
def test_a_question_asked_twice_is_refused(name: str, small_corpus: str) -> None:
    with pytest.raises(ValueError, match="two requests have the prompt 'The Space Needle is located in the city of'"):
        get_method(name).compute(tiny_model("gpt2"), (NEEDLE, NEEDLE), quick(name, small_corpus))
    with pytest.raises(ValueError, match="there is nothing to edit"):
        get_method(name).compute(tiny_model("gpt2"), (), quick(name, small_corpus))


@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_the_model_has_not(name: str, small_corpus: str) -> None:
    with pytest.raises(ValueError, match="layer 9 is out of range: this model has layers 0 to 3"):
        get_method(name).compute(tiny_model("gpt2"), asked(name), quick(name, small_corpus, layer=9))


@pytest.mark.parametrize("name", NAMES)
def test_settings_explain_themselves_and_are_checked(name: str, small_corpus: str) -> None:
    method = get_method(name)
    assert method.family in FAMILIES
    assert method.needs <= NEEDS
    for knob in fields(method.config_type):
        assert knob.metadata["help"].endswith(".")
    wrong = {"steps": 0} if name != "kn" else {"coarse": 2.0}
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is .*expected a (whole )?number"):
        quick(name, small_corpus, **wrong)
