"""Kinds and studies are found from every entry point, and one that is broken breaks nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiments
from experiments import kinds, studies
from experiments.__main__ import main
from experiments.identity import identity_of
from experiments.kinds import BUILT_IN, get_kind
from experiments.ledger.ledger import Ledger
from experiments.plan import Cell, Plan
from experiments.runner import execute
from experiments.studies import get_study, survey
from experiments.workers.inline import Inline
from facts import EditRequest, Fact
from facts.records import request_record
from models import load_model
from tests.experiments.made import IDENTITY, draws
from tests.tiny import build_tiny

MINE = """
from experiments.kinds import kind
NAME, HELP = "my-own", "100 % mine"

@kind("mine")
def mine(model, spec, context):
    return {"twice": 2 * spec["x"]}

def add_options(parser):
    parser.add_argument("--x", type=int)

def plan(options, model):
    raise ValueError("never asked")

def summarise(ledger, run, folder):
    return []
"""
BROKEN = {
    "torn": "def plan(:\n",
    "needs_more": "import a_library_that_is_not_there\n",
    "raises": "1 / 0\n",
    "half": "NAME = 'half'\nHELP = 'half a study'\ndef plan(options, model): ...\ndef add_options(parser): ...\n",
}


@pytest.fixture
def with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A study of the user's own, and several that cannot be used, in the package of the studies."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name, text in {**BROKEN, "my_own": MINE}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(folder)])
    yield
    kinds._KINDS.pop("mine", None)
    for name in ("my_own", *BROKEN):
        sys.modules.pop(f"experiments.studies.{name}", None)


def registered() -> dict[str, str]:
    """Kind -> module, of every `@kind("...")` in the package's sources."""
    found = {}
    root = Path(experiments.__file__).parent
    for path in root.rglob("*.py"):
        module = ".".join(("experiments", *path.relative_to(root).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "kind":
                    name = call.args[0]
                    assert isinstance(name, ast.Constant)
                    found[str(name.value)] = module
    return found


def test_every_kind_is_found_by_name_without_its_study() -> None:
    assert registered() == BUILT_IN
    script = (
        "import experiments.studies as studies\n"
        "studies.survey = None\n"
        "from experiments.kinds import BUILT_IN, get_kind\n"
        "print(all(get_kind(name).module == module for name, module in BUILT_IN.items()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_studys_cells_are_resumed_by_processes_that_never_saw_the_study(tmp_path: Path) -> None:
    module, tokenizer = build_tiny("gpt_neo")
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model")
    request = request_record(EditRequest(Fact("Rome", "{} is the capital of", "Italy"), "Paris"))
    cell = Cell("rewrite", {"request": request, "method": "ft", "layer": 1, "settings": {"steps": 2}})
    plan = Plan("found", str(tmp_path / "model"), (cell,))
    with Ledger(tmp_path / "here") as ledger:
        ledger.add(plan, identity_of(model))
        execute(ledger, "found", Inline(model))
        expected = ledger.read("SELECT payload FROM results")
    with Ledger(tmp_path / "there") as ledger:
        ledger.add(plan, identity_of(model))
    command = [sys.executable, "-m", "experiments", "resume", "--out", str(tmp_path / "there")]
    words = ["--executor", "processes", "--workers", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Ledger(tmp_path / "there") as ledger:
        assert ledger.read("SELECT payload FROM results") == expected


@pytest.mark.usefixtures("with_others")
def test_broken_studies_are_listed_with_the_reason_and_the_others_work(capsys: pytest.CaptureFixture[str]) -> None:
    found = survey()
    assert {"layer-sweep", "my-own"} <= found.studies.keys()
    assert found.unusable.keys() == {"torn", "needs-more", "raises", "half"}
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--help"])
    listed = " ".join(capsys.readouterr().out.split())
    assert "my-own: 100 % mine" in listed
    assert "torn cannot be used: it cannot be imported (invalid syntax (torn.py, line 1))" in listed
    assert "needs-more cannot be used: it cannot be imported (No module named 'a_library_that_is_not_there')" in listed
    assert "raises cannot be used: it cannot be imported (ZeroDivisionError: division by zero)" in listed
    assert "half cannot be used: its module 'half' has no 'summarise'" in listed
    assert get_study("my-own").NAME == "my-own"
    assert main(["run", "half"]) == 2
    told = capsys.readouterr().err
    assert told == (
        "error: the study 'half' cannot be used: its module 'half' has no 'summarise'; mend or remove its module\n"
    )


@pytest.mark.usefixtures("with_others")
def test_a_kind_of_a_study_that_was_added_is_found_too() -> None:
    assert get_kind("mine").run(None, {"x": 3}, kinds.Context()) == {"twice": 6}
    with pytest.raises(ValueError, match=r"unknown kind of cell 'mined'; did you mean 'mine'.*; torn may have it, but"):
        get_kind("mined")


@pytest.mark.usefixtures("with_others")
def test_a_broken_study_costs_its_figure_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan("draws", "", draws(2).cells, about={"study": "torn"})
    with Ledger(tmp_path / "out") as ledger:
        ledger.add(plan, IDENTITY)
    for command in ("resume", "export"):
        assert main([command, "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr()
        assert str(tmp_path / "out" / "draws" / "cells.csv") in told.out.splitlines()
        assert "error: the study 'torn' cannot be used: it cannot be imported (invalid syntax" in told.err
    assert main(["status", "--out", str(tmp_path / "out")]) == 0
    assert "2 done" in capsys.readouterr().out
    assert main(["doctor", "--out", str(tmp_path / "out")]) == 0
