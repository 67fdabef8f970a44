"""Cells, their keys, grids and plans in TOML."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from editing.registry import REVISIONS
from experiments.kinds import get_kind
from experiments.plan import Cell, Plan, canonical, cell_key, grid
from experiments.plan_files import SET_ASIDE, plan_of, read_plan_file, sample_facts
from facts import Fact
from facts.atlas import load_atlas
from tests.tiny import tiny_model

FACT = {"subject": "Space Needle", "template": "The {} is in", "target_true": "Seattle", "relation": ""}
IDENTITY: dict[str, Any] = {
    "model": "reference",
    "weights_sha256": "a" * 64,
    "tokenizer_sha256": "b" * 64,
    "dtype": "float32",
    "device": "cpu",
    "attention": "eager",
    "libraries": {"torch": "2.13", "transformers": "5.23", "tokenizers": "0.23", "nnsight": "0.8", "python": "3.11"},
}


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if value is None:
        return "something"
    if isinstance(value, bool):
        return not value
    return value + "x" if isinstance(value, str) else value + 1


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every single value."""
    if isinstance(tree, dict):
        return [leaf for name, inner in tree.items() for leaf in leaves(inner, (*path, name))]
    if isinstance(tree, list):
        return [leaf for index, inner in enumerate(tree) for leaf in leaves(inner, (*path, index))]
    return [path]


def test_any_change_of_anything_is_another_key() -> None:
    spec = dict(get_kind("trace").complete({"fact": FACT, "level": {"sigma": 0.1, "source": "x", "tokens": [1, 2]}}))
    whole = {"kind": "trace", "version": 1, "spec": spec, "identity": IDENTITY}
    assert len(leaves(spec)) > 18, "every setting of a trace is in its spec, defaults too"
    keys = {cell_key(**copy.deepcopy(whole))}
    for *path, last in leaves(whole):
        other = copy.deepcopy(whole)
        inside: Any = other
        for name in path:
            inside = inside[name]
        inside[last] = changed(inside[last])
        keys.add(cell_key(**other))
    for part in (spec, IDENTITY, IDENTITY["libraries"]):
        for name in part:
            other = copy.deepcopy(whole)
            inside = other["spec"] if part is spec else other["identity"]
            del (inside["libraries"] if part is IDENTITY["libraries"] else inside)[name]
            keys.add(cell_key(**other))
    n_removed = len(spec) + len(IDENTITY) + len(IDENTITY["libraries"])
    assert len(keys) == 1 + len(leaves(whole)) + n_removed


def test_equal_settings_have_one_key_however_they_are_written() -> None:
    one = cell_key("draw", 1, {"a": [1, 2], "b": {"c": "é"}}, {})
    assert one == cell_key("draw", 1, {"b": {"c": "é"}, "a": (1, 2)}, {})
    assert one != cell_key("draw", 1, {"a": [2, 1], "b": {"c": "é"}}, {})
    # worked by hand: sha256 of the canonical text
    assert canonical({"b": 1, "a": None}) == '{"a":null,"b":1}'


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"x": float("nan")}, r"\$\.x is nan; JSON takes finite numbers"),
        ({"x": [1, float("inf")]}, r"\$\.x\[1\] is inf"),
        ({3: "x"}, "has the key 3; expected text"),
        ({"x": {1, 2}}, r"\$\.x is a set; expected plain JSON"),
    ],
)
def test_settings_are_plain_json(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Cell("trace", value)


def test_a_grid_is_facts_by_axes() -> None:
    cells = list(grid("trace", [{"fact": 1}, {"fact": 2}], {"site": ["a", "b"], "window": 3, "seed": [0, 1]}))
    assert len(cells) == 2 * 2 * 2
    assert [dict(cell.spec) for cell in cells[:3]] == [
        {"fact": 1, "site": "a", "window": 3, "seed": 0},
        {"fact": 1, "site": "a", "window": 3, "seed": 1},
        {"fact": 1, "site": "b", "window": 3, "seed": 0},
    ]
    with pytest.raises(ValueError, match="the grid's 'seed' is empty"):
        list(grid("trace", [{}], {"seed": []}))


def test_a_plan_has_a_name_and_cells() -> None:
    with pytest.raises(ValueError, match=r"the plan's name is '\.\./x'"):
        Plan("../x", "reference", (Cell("trace", {}),))
    with pytest.raises(ValueError, match="has no cells"):
        Plan("x", "reference", ())


def test_a_trace_fills_in_the_defaults_and_refuses_what_it_does_not_know() -> None:
    complete = get_kind("trace").complete
    whole = complete({"fact": FACT})
    assert (whole["noise"], whole["samples"], whole["site"], whole["severed"]) == (3.0, 10, "resid_post", None)
    assert complete(whole) == whole
    for spec, problem in [
        ({"fact": FACT, "nois": 2}, "no setting 'nois'"),
        ({"site": "mlp_out"}, "needs fact"),
        ({"fact": {"subject": "x"}}, "expected subject, template, target_true"),
        ({"fact": FACT, "site": "heads"}, "unknown site 'heads'"),
    ]:
        with pytest.raises(ValueError, match=problem):
            complete(spec)


def test_an_edit_fills_in_the_methods_defaults() -> None:
    complete = get_kind("edit").complete
    request = {"fact": FACT, "target_new": "Rome"}
    whole = complete({"request": request, "method": "r-rome", "layer": 1, "settings": {"steps": 3}})
    assert (whole["settings"]["steps"], whole["settings"]["norm_limit"], whole["layer"]) == (3, 4.0, 1)
    assert "layer" not in whole["settings"]
    assert complete(whole) == whole
    for spec, problem in [
        ({"request": request, "method": "rom"}, "unknown method 'rom'; did you mean 'rome'"),
        ({"request": request}, "needs method"),
        ({"request": {"fact": FACT}, "method": "rome"}, "expected fact, target_new"),
        ({"request": request, "method": "rome", "layer": 1, "settings": {"stepz": 3}}, "unknown setting 'stepz'"),
    ]:
        with pytest.raises(ValueError, match=problem):
            complete(spec)


def test_a_changed_corpus_is_another_cell(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one line\n")
    spec = {
        "request": {"fact": FACT, "target_new": "Rome"},
        "method": "rome",
        "layer": 1,
        "settings": {"corpus": str(corpus)},
    }
    before = get_kind("edit").complete(spec)
    corpus.write_text("another line\n")
    after = get_kind("edit").complete(spec)
    assert before["rests_on"]["corpus"] != after["rests_on"]["corpus"]
    with pytest.raises(ValueError, match="the corpus of rome has changed since the run was planned"):
        get_kind("edit").run(None, before, None)  # type: ignore[arg-type]  # refused before either is looked at


@pytest.mark.parametrize("name", ["edit", "protocols", "rewrite", "sequence"])
def test_a_method_that_computes_something_else_is_another_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"fact": FACT, "target_new": "Rome"}
    asked: dict[str, Any] = {"requests": [request]} if name == "sequence" else {"request": request}
    kind = get_kind(name)
    before = kind.complete({**asked, "method": "rome", "layer": 1})
    assert kind.complete(before) == before
    monkeypatch.setitem(REVISIONS, "rome", 2)
    after = kind.complete({**asked, "method": "rome", "layer": 1})
    assert cell_key(name, 1, before, {}) != cell_key(name, 1, after, {})
    with pytest.raises(ValueError, match="the revision of rome has changed"):
        kind.run(None, before, None)  # type: ignore[arg-type]  # refused before either is looked at
    with pytest.raises(ValueError, match="the revision of rome has changed"):  # planned before it was a setting
        kind.run(None, {name: value for name, value in after.items() if name != "rests_on"}, None)  # type: ignore[arg-type]


def test_kinds_are_found_by_name() -> None:
    assert get_kind("trace").module == "experiments.cells.trace"
    with pytest.raises(ValueError, match="unknown kind of cell 'trase'; did you mean 'trace'"):
        get_kind("trase")


PLAN = """
name = "windows"
[[grid]]
kind = "trace"
facts = { atlas = 3, seed = 1 }
site = ["mlp_out", "attn_out"]
window = [1, 3]
positions = [["last_subject", "last_token"]]
[[grid]]
kind = "edit"
facts = { atlas = 2 }
method = ["r-rome", "ft-m"]
layer = [0, 1, 2]
"""


def test_a_plan_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    tables = read_plan_file(path)
    plan = plan_of(tables, None)
    assert (plan.name, plan.model, plan.dtype) == ("windows", "reference", "auto")
    assert len(plan.cells) == 3 * 2 * 2 + 2 * 2 * 3
    first = plan.cells[0].spec
    assert first["positions"] == ["last_subject", "last_token"]
    assert Fact(**first["fact"]) == load_atlas().as_fact(sample_facts(3, 1)[0])
    request = plan.cells[-1].spec["request"]
    assert request["target_new"] != request["fact"]["target_true"]
    assert request["probes"], "the atlas derives probes"


def test_facts_come_from_datasets_too(tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    file.write_text(
        "subject,prompt,target_true,target_new\nRome,Rome is in,Italy,France\nOslo,Oslo is in,Norway,Spain\n"
    )
    for kind, found in [("trace", "fact"), ("edit", "request")]:
        extra = {"method": "ft-m"} if kind == "edit" else {}
        table = {"kind": kind, "facts": {"file": str(file), "first": 1}, **extra}
        (cell,) = plan_of({"name": "x", "model": "m", "dtype": "d", "device": "cpu", "grid": [table]}, None).cells
        fact = cell.spec[found] if kind == "trace" else cell.spec[found]["fact"]
        assert (fact["subject"], fact["target_true"]) == ("Rome", "Italy")


def test_rows_that_cannot_be_read_are_set_aside_and_named(tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    file.write_text(
        "subject,prompt,target_true,target_new\nRome,Rome is in,Italy,Italy\nOslo,Oslo is in,Norway,Spain\n"
    )
    table: dict[str, Any] = {"kind": "edit", "method": "ft-m", "facts": {"file": str(file), "first": 5}}
    head = {"name": "x", "model": "m", "dtype": "auto", "device": "auto"}
    plan = plan_of({**head, "grid": [table]}, None)
    assert [cell.spec["request"]["fact"]["subject"] for cell in plan.cells] == ["Oslo"]
    (note,) = plan.about[SET_ASIDE]
    assert note.startswith(
        "1 row was set aside, since the new answer is a true one: row 1 (line 2): target_new is 'Italy', which is the "
        "true answer too"
    )
    with pytest.raises(ValueError, match="grid 1: first is -1; expected a whole number of at least 1"):
        plan_of({**head, "grid": [{**table, "facts": {"file": str(file), "first": -1}}]}, None)
    table["facts"]["keep_same_answers"] = True  # as the published count has them
    kept = plan_of({**head, "grid": [table]}, None)
    assert [cell.spec["request"]["target_new"] for cell in kept.cells] == ["Italy", "Spain"]
    assert SET_ASIDE not in kept.about
    table["facts"]["keep_same_answers"] = "yes"
    with pytest.raises(ValueError, match="grid 1: keep_same_answers is 'yes'; expected true or false"):
        plan_of({**head, "grid": [table]}, None)


@pytest.mark.parametrize("layer", [99, [1, 4]])
def test_a_layer_that_the_model_has_not_is_an_error_of_the_plan(layer: Any) -> None:
    table = {"kind": "edit", "facts": {"atlas": 2}, "method": "ft", "layer": layer}
    head = {"name": "x", "model": "m", "dtype": "d", "device": "cpu"}
    with pytest.raises(ValueError, match=r"grid 1: layer (99|4) is out of range: this model has layers 0 to 3"):
        plan_of({**head, "grid": [table]}, tiny_model("gpt2"))
    assert plan_of({**head, "grid": [{**table, "layer": 3}]}, tiny_model("gpt2")).cells


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = ", "is not TOML"),
        ("modle = 'x'", "no place for 'modle'; it takes name, model"),
        ("name = 'x'", r"needs a \[\[grid\]\] with a kind"),
        ("[[grid]]\nkind = 'trace'", r"grid 1: facts is None; expected"),
        ("[[grid]]\nkind = 'trace'\nfacts = { atlas = 0 }", "grid 1: 0 facts were asked for"),
        ("[[grid]]\nkind = 'trice'", "grid 1: unknown kind of cell 'trice'"),
    ],
)
def test_a_wrong_plan_is_a_sentence(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        plan_of(read_plan_file(path), None)
