"""How a plan has its model loaded: kept with the run, in the keys where it changes numbers, done by every worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.ledger.ledger import Ledger, RunInfo
from experiments.plan import LOADING
from experiments.plan_files import read_plan_file
from experiments.workers.messages import Setup
from experiments.workers.worker import Worker
from tests.tiny import build_tiny

GRID = '[[grid]]\nkind = "trace"\nfacts = { file = "FILE", first = 1 }\nsamples = 1\n'


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of one trace on a tiny model."""
    module, tokenizer = build_tiny("llama")
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,prompt,target_true\nthe Space Needle,the Space Needle is in,Seattle\n")
    path = tmp_path / "plan.toml"
    path.write_text(f'model = "{tmp_path / "model"}"\n{GRID.replace("FILE", str(facts))}')
    return path


def run(plan: Path, out: str, *arguments: str) -> RunInfo:
    """The run as the ledger holds it."""
    folder = plan.parent / out
    assert main(["run", str(plan), "--out", str(folder), *arguments]) == 0
    with Ledger(folder) as ledger:
        return ledger.info("plan")


def test_what_auto_came_to_is_kept(plan: Path) -> None:
    info = run(plan, "usual", "--device", "cpu")
    assert (info.dtype, info.device, dict(info.about)) == ("float32", "cpu", {})


def test_dtype_changes_the_keys_and_a_device_map_does_not(plan: Path) -> None:
    usual, spread = run(plan, "usual"), run(plan, "spread", "--device-map", "auto")
    assert spread.keys == usual.keys
    assert spread.about[LOADING] == {"device_map": "auto"}
    plan.write_text(f'dtype = "bfloat16"\ndevice_map = "auto"\n{plan.read_text()}')
    half = run(plan, "half")
    assert (half.dtype, half.device, half.about[LOADING]) == ("bfloat16", "auto", {"device_map": "auto"})
    assert half.keys != usual.keys
    assert half.identity["dtype"] == "bfloat16"


def test_a_worker_loads_as_the_run_says(plan: Path) -> None:
    info = run(plan, "half", "--dtype", "bfloat16", "--device-map", "auto")
    worker = Worker(Setup(info.model, info.dtype, info.device, dict(info.identity), (), **info.about[LOADING]))
    assert worker.model is not None
    assert str(worker.model.dtype) == "torch.bfloat16"
    # so does the one that goes on with the run
    assert main(["resume", "--out", str(plan.parent / "half")]) == 0


def test_wrong_settings_of_a_plan_are_refused(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = plan.read_text()
    for line, words in (
        ('device = "tpu"', "the device is 'tpu'"),
        ('load = "3bit"', "the load is '3bit'"),
        ("dtype = 16", "the dtype is 16"),
        ('chat = "yes"', "says chat = 'yes'; write true or false"),
    ):
        plan.write_text(f"{line}\n{text}")
        assert main(["run", str(plan), "--out", str(plan.parent / "out")]) == 2
        assert words in capsys.readouterr().err
    plan.write_text(text)
    assert read_plan_file(plan)["chat"] is False


def test_a_chat_is_kept_and_changes_the_keys(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = run(plan, "usual")
    assert main(["run", str(plan), "--out", str(plan.parent / "none"), "--chat"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    config = plan.parent / "model" / "tokenizer_config.json"
    told = json.loads(config.read_text())
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    config.write_text(json.dumps({**told, "chat_template": template}))
    info = run(plan, "chat", "--chat")
    assert (info.identity["chat"], info.about[LOADING]) == (True, {"chat": True})
    assert info.keys != usual.keys
    assert main(["resume", "--out", str(plan.parent / "chat")]) == 0
