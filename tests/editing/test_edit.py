"""Edits as data: applying, adding up, saving, refusing."""

import dataclasses
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from editing import METHODS, Diagnostic, Edit, RomeConfig, WeightDelta, apply_edits, get_method
from editing.configs import make_config
from editing.files import load_edit, save_edit
from editing.method import FAMILIES, NEEDS
from editing.methods.grace import GraceConfig
from editing.ops import CodebookOp, DenseDelta, PromptOp, RouteOp, SideOp, op_digest
from facts import EditRequest, Fact, Probe
from facts.names import unknown
from models import LanguageModel
from tests.editing import made as by_hand
from tests.tiny import tiny_model

PROBE = Probe("one_hop", "The tower's country is", "France", (("Paris is in the country of", "France"),))
REQUEST = EditRequest(
    Fact("東京", "{} is the capital of", "Japan", "capital"), "France", (PROBE,), ("The tower", "A tower")
)


def toy(model: LanguageModel, layer: int, seed: int) -> Edit:
    """A random rank-one edit of one layer."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(model.d_model, 1, generator=generator)
    cols = torch.randn(1, model.d_mlp, generator=generator)
    delta = WeightDelta(model.architecture.key_weight_name(layer), rows, cols)
    return Edit("rome", (REQUEST,), RomeConfig(layer), (delta,), model.revision)


@pytest.fixture
def edit() -> Edit:
    config = RomeConfig(1, steps=3, prefixes=2, second_moment="identity")
    return METHODS["rome"].compute(tiny_model("gpt2"), [REQUEST], config)


def test_save_and_load_give_the_same_edit(edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    save_edit(edit, path)
    loaded = load_edit(path)
    assert loaded.digest == edit.digest
    assert (
        repr(loaded)
        == f"<Edit {edit.digest[:12]}: rome, {REQUEST.fact.prompt} … {REQUEST.target_new}, requests 1, ops 1>"
    )
    assert loaded.config == edit.config
    assert loaded.requests == edit.requests
    assert loaded.diagnostics == edit.diagnostics
    assert loaded.losses == edit.losses
    assert loaded.seconds == edit.seconds
    model = tiny_model("gpt2")
    ids = torch.tensor([model.encode(REQUEST.fact.prompt)])
    assert torch.equal(apply_edits(model, [loaded]).logits(ids), apply_edits(model, [edit]).logits(ids))


def test_other_weights_are_refused_unless_forced(edit: Edit) -> None:
    other = tiny_model("gpt2", seed=1)
    with pytest.raises(ValueError, match="computed from weights"):
        apply_edits(other, [edit])
    assert apply_edits(other, [edit], force=True).weights_digest() != other.weights_digest()
    with pytest.raises(ValueError, match="no parameter"):
        apply_edits(tiny_model("llama"), [edit], force=True)


def test_another_shape_is_refused() -> None:
    model = tiny_model("gpt2")
    delta = WeightDelta(model.architecture.key_weight_name(0), torch.ones(3, 1), torch.ones(1, 5))
    with pytest.raises(ValueError, match="made for another model"):
        apply_edits(model, [dataclasses.replace(toy(model, 0, 0), ops=(delta,))])


@pytest.mark.parametrize("kind", ["factors", "side weights", "keys"])
def test_a_small_file_that_would_grow_to_gigabytes_is_refused_before_it_grows(kind: str, tmp_path: Path) -> None:
    """Factors of a matrix of 14,000 x 14,000, thousands of whole weights, keys whose products would be as large."""
    model, n = tiny_model("gpt2"), 14_000
    name = model.architecture.key_weight_name(0)
    edit = toy(model, 0, 0)
    if kind == "factors":
        edit = dataclasses.replace(edit, ops=(WeightDelta(name, torch.ones(n, 1), torch.ones(1, n)),))
    elif kind == "side weights":
        index, change = torch.zeros(1, dtype=torch.int64), torch.ones(1)
        shape = (model.d_model, model.d_mlp)
        sides = (SideOp(name, shape, index.clone(), change.clone(), shard, 1.0, 1.0) for shard in range(4000))
        edit = dataclasses.replace(edit, ops=tuple(sides))
    else:
        edit = dataclasses.replace(edit, keys={name: torch.ones(1, n)})
    save_edit(edit, tmp_path / "edit.safetensors")
    read = load_edit(tmp_path / "edit.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"made for another model|no method makes more than one"):
        apply_edits(model, [read])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_files_that_are_no_edits_are_refused(edit: Edit, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        load_edit(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a saved edit"):
        load_edit(tmp_path / "text")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="not a saved edit"):
        load_edit(tmp_path / "weights")
    save_edit(edit, tmp_path / "edit")
    data = bytearray((tmp_path / "edit").read_bytes())
    data[-3] ^= 0x01  # one flipped bit in a factor
    (tmp_path / "edit").write_bytes(data)
    with pytest.raises(ValueError, match=r"digest differs|not finite"):
        load_edit(tmp_path / "edit")
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_edit(edit, tmp_path / "absent" / "edit")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_edit(edit, tmp_path / "taken")
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("requests", [], "holds no request"),
        ("diagnostics", [{"name": "p(new) after", "value": "high"}], r"diagnostics\[0\].value is 'high'"),
        ("losses", [{"target_nll": 1.0, "kl": None, "decay": 0.0}], r"losses\[0\].kl is None"),
        ("seconds", {"search": "long"}, "seconds.search is 'long'"),
        ("parents", "abc", "parents is 'abc'"),
        ("model_revision", 3, "model_revision is 3"),
    ],
)
def test_a_field_of_another_type_is_refused_by_its_name(
    edit: Edit, tmp_path: Path, field: str, value: object, named: str
) -> None:
    save_edit(edit, tmp_path / "edit")
    with safe_open(str(tmp_path / "edit"), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    description = json.loads(metadata["edit"]) | {field: value}
    save_file(tensors, tmp_path / "edit", metadata | {"edit": json.dumps(description)})
    with pytest.raises(ValueError, match=f"not a saved edit .*{named}"):
        load_edit(tmp_path / "edit")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_edits_add_up_and_come_off_in_any_order(family: str) -> None:
    model = tiny_model(family)
    first, second, third = toy(model, 0, 0), toy(model, 0, 1), toy(model, 2, 2)
    every = apply_edits(model, [first, second, third]).weights_digest()
    assert apply_edits(model, [third, first, second]).weights_digest() == every
    two = apply_edits(model, [first, third]).weights_digest()
    assert two != every
    assert apply_edits(model, [edit for edit in (third, second, first) if edit is not second]).weights_digest() == two
    assert apply_edits(model, []).weights_digest() == model.weights_digest()


def test_an_edit_of_an_edited_model_belongs_to_it() -> None:
    """A sequence of edits: the second is computed on the first's view and refuses the base."""
    base = tiny_model("gpt2")
    view = apply_edits(base, [toy(base, 0, 0)])
    second = toy(view, 1, 1)
    assert apply_edits(view, [second]).weights_digest() not in (base.weights_digest(), view.weights_digest())
    with pytest.raises(ValueError, match="computed from weights"):
        apply_edits(base, [second])


def test_norm_and_matrix_of_a_delta() -> None:
    delta = WeightDelta("w", torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    assert delta.matrix().tolist() == [[1.0, 2.0, 1.0], [0.0, 1.0, 0.0]]
    assert delta.norm == pytest.approx(float(delta.matrix().norm()))
    with pytest.raises(ValueError, match="expected"):
        WeightDelta("w", torch.ones(2, 1), torch.ones(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        WeightDelta("w", torch.tensor([[float("nan")]]), torch.ones(1, 3))


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown method 'rom'; did you mean 'rome'"):
        get_method("rom")
    edit = toy(tiny_model("gpt2"), 0, 0)
    with pytest.raises(KeyError, match="no diagnostic"):
        edit.diagnostic("beauty")
    assert dataclasses.replace(edit, diagnostics=(Diagnostic("a", 1.0),)).diagnostic("a").value == 1.0
    assert edit.parameters_changed == 32 * 64


def test_every_method_says_what_it_is_and_its_settings_explain_themselves() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title.strip()
        assert method.family in FAMILIES
        assert method.needs <= NEEDS
        assert isinstance(method.batch, bool)
        for knob in dataclasses.fields(method.config_type):
            assert str(knob.metadata.get("help", "")).endswith("."), f"{name}.{knob.name} has no help"


def test_settings_nobody_knows_are_told_with_the_nearest_that_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'learning_rat'; did you mean 'learning_rate'\?"):
        make_config(RomeConfig, {"layer": 1, "learning_rat": 0.1})
    with pytest.raises(ValueError, match="unknown setting 'zzz'; choose from "):
        make_config(RomeConfig, {"layer": 1, "zzz": 0.1})
    with pytest.raises(ValueError, match="'layer' is missing"):
        make_config(RomeConfig, {})
    with pytest.raises(ValueError, match="steps is True; expected a whole number"):
        GraceConfig(steps=True)
    with pytest.raises(ValueError, match="steps is 0; expected a whole number of at least 1 and at most 1000"):
        GraceConfig(steps=0)
    assert unknown("method", "ROME", ["rome", "mend"]).startswith("unknown method 'ROME'; did you mean 'rome'?")


def test_operations_that_do_not_belong_together_are_refused() -> None:
    two, ones = torch.ones(2), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"expected \[d_out, d_in\]"):
        DenseDelta("w", torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="not finite"):
        DenseDelta("w", torch.tensor([[float("inf")]]))
    with pytest.raises(ValueError, match="with n >= 1"):
        CodebookOp("m", ones, ones, ((1,),), 1.0)
    with pytest.raises(ValueError, match="radius is -1"):
        CodebookOp("m", ones, ones, ((1,), (2,)), -1)
    with pytest.raises(ValueError, match="where is 'first'; choose from last, prompt, all"):
        CodebookOp("m", ones, ones, ((1,), (2,)), 1.0, "first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside its 6 entries"):
        SideOp("w", (2, 3), torch.tensor([0, 6]), two, 0, 1.0, 0.9)
    with pytest.raises(ValueError, match=r"expected \[n\] int64 and \[n\]"):
        SideOp("w", (2, 3), torch.tensor([0]), two, 0, 1.0, 0.9)
    with pytest.raises(ValueError, match="with n >= 1"):
        RouteOp(ones, ((1,),), ("a", "b"), 0.5, "digest")
    with pytest.raises(ValueError, match="no tokens"):
        PromptOp((), (), (), 10)
    with pytest.raises(ValueError, match="reserve is 0"):
        PromptOp((), (1,), (), 0)


def test_every_kind_of_operation_reads_back_from_its_file(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    route = RouteOp(torch.ones(2, 3), ((1, 2), (3,)), ("a", "b"), 0.5, "digest")
    ops = (
        by_hand.low_rank(model, 0, 0),
        by_hand.dense(model, 1, 0),
        DenseDelta("bias", torch.ones(4)),
        by_hand.entry(model, 1),
        by_hand.aside(model, 2, 0),
        route,
        by_hand.stated(model, "It is in Paris.", ["a", "b c"]),
    )
    edit = dataclasses.replace(by_hand.made(model, *ops), keys={"w.weight": torch.ones(2, 3)}, parents=("x", "y"))
    save_edit(edit, tmp_path / "edit")
    read = load_edit(tmp_path / "edit")
    assert [type(op) for op in read.ops] == [type(op) for op in ops]
    assert (read.content, read.digest, read.parents) == (edit.content, edit.digest, ("x", "y"))
    assert torch.equal(read.keys["w.weight"], torch.ones(2, 3))
    assert read.ops[5].contexts == route.contexts  # type: ignore[union-attr]
    assert read.n_bytes == edit.n_bytes > 0
    assert read.parameters_changed == edit.parameters_changed
    for index, op in enumerate(ops):  # what an operation does is part of its digest, every field of it
        rest = (*ops[:index], *ops[index + 1 :])
        assert dataclasses.replace(edit, ops=rest).content != edit.content
        for knob in dataclasses.fields(op):
            value = getattr(op, knob.name)
            if isinstance(value, torch.Tensor):
                other = value * 2 if value.is_floating_point() else value.flip(0)
                assert op_digest(dataclasses.replace(op, **{knob.name: other})) != op_digest(op)
            elif isinstance(value, float):
                assert op_digest(dataclasses.replace(op, **{knob.name: value + 1})) != op_digest(op)
