"""The Batch page without a browser: from facts to a process of its own, and what it found."""

import copy
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.batch import results, sweeps
from app.batch.datasets import facts_of, read_dataset, requests_of
from app.batch.prepare import BatchAsk, Prepared, _whole, prepare
from app.batch.sweeps import Experiment, Standing
from app.server import cache
from experiments.ledger.ledger import Ledger
from experiments.plan import LOADING, Cell, Plan
from experiments.workers.messages import Setup
from experiments.workers.worker import Worker
from facts import Fact
from tests.tiny import build_tiny

NewPage = Callable[..., AppTest]
ROWS = [
    {"subject": "Rome", "prompt": "Rome is the capital of", "target_true": "Italy", "target_new": "Spain"},
    {"subject": "Oslo", "prompt": "Oslo is the capital of", "target_true": "Norway", "target_new": "Peru"},
    {"subject": "Bern", "prompt": "Bern is the capital of", "target_true": "Switzerland"},
    {"subject": "Lima", "prompt": "", "target_true": "Peru"},
]


def test_a_file_is_counted_once_and_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    found = read_dataset(str(path))
    assert (found.cases, found.n_rejected, found.editable) == (3, 1, 2)
    (bad,) = found.rejected
    assert (bad.row, bad.line, bad.field) == (4, 4, "prompt")
    assert json.loads(found.rejected_file)["row"] == 4
    assert found.rows[0]["prompt"] == "Rome is the capital of"
    assert {fact.subject for fact in facts_of(str(path), 0)} == {"Rome", "Oslo", "Bern"}
    assert {request.target_new for request in requests_of(str(path), 1)} == {"Spain", "Peru"}


SECRET = "root:x:0:0:the password is mellon:/root"


def test_nothing_of_a_file_of_the_server_is_quoted_but_its_cases(tmp_path: Path) -> None:
    path = tmp_path / "passwd.jsonl"
    path.write_text("\n".join([SECRET] * 3))
    with pytest.raises(ValueError, match=r"^the file cannot be read as a dataset"):
        read_dataset(str(path), quote=False)
    path.write_text("\n".join([*map(json.dumps, ROWS), SECRET]))
    found = read_dataset(str(path), quote=False)
    assert (found.cases, found.n_rejected) == (3, 2)
    assert "mellon" not in repr(found) + found.rejected_file.decode()
    with pytest.raises(ValueError, match="it is a device"):
        read_dataset("/dev/zero", quote=False)


def test_a_path_of_the_server_is_asked_for_only_behind_its_switch(
    new_page: NewPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = new_page()
    page.switch_page("batch/page.py").run()
    page.segmented_control(key="batch_source").set_value("file").run()
    assert not [field for field in page.text_input if field.key == "batch_path"]
    monkeypatch.setenv("ENGRAM_SERVER_PATHS", "1")
    page.run()
    assert [field.label for field in page.text_input if field.key == "batch_path"] == ["or a path on the server"]


def test_the_atlas_needs_no_file() -> None:
    found = read_dataset("atlas")
    assert found.traceable == found.editable == len(list(facts_of("atlas", 3))) > 1000
    assert [fact.subject for fact in facts_of("atlas", 1)] != [fact.subject for fact in facts_of("atlas", 2)]
    assert next(requests_of("atlas", 0)).probes


def test_the_time_of_the_whole_from_a_few_cells() -> None:
    # 3 s are typical and the first cell took 2 s more; 10 cells for two workers are 5 each, after 10 s of loading.
    assert _whole([5.0, 3.0, 3.0], 10, 2) == pytest.approx(10 + 2 + 15)


def ask(**changes: object) -> BatchAsk:
    values: dict[str, object] = {
        "model": "reference",
        "source": "atlas",
        "what": "edit",
        "facts": 2,
        "seed": 0,
        "workers": 1,
        "methods": ("ft-m",),
        "layers": (1, 2),
        "protocols": ("engram", "rome"),
        "only_known": False,
    }
    return BatchAsk(**(values | changes))  # type: ignore[arg-type]


def prepared(asked: BatchAsk) -> Prepared:
    return prepare(cache.shelf().get("reference"), asked)


def test_a_batch_that_cannot_fit_is_refused_with_both_numbers(
    new_page: NewPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_page()
    model = cache.shelf().get("reference")  # which needs memory itself
    monkeypatch.setattr("experiments.memory.free_bytes", lambda device: 100 * 2**20)
    found = prepare(model, ask(workers=2))
    assert found.n_measured == 0  # nothing is run that would not fit
    assert "2 workers need about" in found.refusal
    assert "100 MB are free" in found.refusal


def test_a_batch_in_a_chat_is_run_in_a_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that computes the cells loads the model as the page did, or it would refuse the plan."""
    module, tokenizer = build_tiny("gpt2")
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setenv("ENGRAM_MODELS", f"mine={tmp_path}")
    model = cache.shelf().get("mine|chat")
    monkeypatch.setattr("experiments.memory.free_bytes", lambda device: 0)  # no cell is timed here
    asked = BatchAsk("mine|chat", "atlas", "edit", facts=1, seed=0, workers=1, methods=("ft-m",), only_known=False)
    found = prepare(model, asked)
    plan = found.plan("x")
    assert plan.about[LOADING] == {"chat": True}
    setup = Setup(plan.model, plan.dtype, plan.device, found.identity, (), **plan.about[LOADING])
    worker = Worker(setup)  # raises where the model is another than the plan's
    assert worker.model is not None
    assert worker.model.chat


def test_facts_the_model_does_not_know_cannot_be_traced(new_page: NewPage) -> None:
    new_page()
    with pytest.raises(ValueError, match="knows none of the 3 facts there are; choose others"):
        prepared(ask(what="trace", source=_write(ROWS[:3]), facts=2, maps=("MLP",)))


def _write(rows: list[dict[str, str]]) -> str:
    return str(cache.uploads().path(cache.uploads().keep("\n".join(map(json.dumps, rows)).encode(), ".jsonl")))


def test_a_batch_runs_in_its_own_process_and_is_found_again(new_page: NewPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "EXECUTOR", "inline")  # one import of torch less
    page = new_page()
    found = prepared(ask(facts=1))
    assert (len(found.cells), found.n_facts, found.n_measured) == (2, 1, 2)
    assert found.refusal == ""
    assert found.seconds > 10
    one = sweeps.start(found.plan("small"), found.identity, 1)
    assert sweeps.standing(one).state == "starting"
    assert sweeps.stop(one) == 1
    _until(one, lambda now: not now.live)
    assert (sweeps.standing(one).state, sweeps.standing(one).last_words) == ("stopped", "")
    sweeps.launch(one, "resume", 1)
    with pytest.raises(ValueError, match="already"):
        sweeps.start(found.plan("small"), found.identity, 1)
    started = dict(sweeps._children)
    monkeypatch.setattr(sweeps, "_children", {})  # as if the server had been started anew
    assert sweeps.current("small") == one
    _until(one, lambda now: not now.left and not now.live)
    now = sweeps.standing(one)
    assert (now.done, now.failed, now.state) == (2, 0, "finished")
    got = results.read_results(one)
    assert [board.protocol for board in got.boards] == ["engram", "rome"]
    board = got.boards[0]
    assert board.n_facts == 1
    assert [(row["method"], row["layer"]) for row in board.rows] in ([("FT-M", "1"), ("FT-M", "2")],
                                                                     [("FT-M", "2"), ("FT-M", "1")])  # fmt: skip
    assert {"reliability", "generalization"} <= set(board.rows[0])
    reliability = next(row for row in board.details if row["metric"] == "Reliability")
    assert reliability["before"].endswith("%")
    assert pd.read_csv(io.BytesIO(results.table(one, "cells", "csv")))["status"].tolist() == ["done"] * 2
    assert len(pd.read_parquet(io.BytesIO(results.table(one, "scores", "parquet")))) > 8
    assert [child.wait(60) for child in started.values()] == [0]
    page.query_params["experiment"] = "small"
    page.switch_page("runs/page.py").run()
    assert not page.exception


def _until(one: Experiment, reached: Callable[[Standing], bool]) -> None:
    until = time.monotonic() + 240
    while not reached(sweeps.standing(one)):
        assert time.monotonic() < until, (one.folder / sweeps.LOG).read_text()
        time.sleep(0.2)


def test_the_form_says_what_it_waits_for(new_page: NewPage) -> None:
    page = new_page()
    page.switch_page("batch/page.py").run()
    assert not page.exception
    assert any("Atlas: 1,945 facts" in e.value and "1,929 are used" in e.value for e in page.markdown)
    page.pills(key="batch_maps").set_value([]).run()
    assert page.button(key="batch_estimate").disabled
    page.segmented_control(key="batch_source").set_value("file").run()
    assert any("Choose a file" in caption.value for caption in page.caption)
    bad = b"\x1f\x8bnot a dataset"
    page.file_uploader(key="batch_file").set_value(("facts.json", bad, "application/json")).run()
    assert not page.exception
    assert "gzip" in page.error[0].value
    good = "\n".join(map(json.dumps, ROWS)).encode()
    page.file_uploader(key="batch_file").set_value(("facts.jsonl", good, "application/json")).run()
    assert any("3 cases" in element.value for element in page.markdown)
    assert "1 row could not be read" in page.warning[0].value


def test_estimate_and_start_from_the_page(new_page: NewPage, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[str, str, int]] = []
    monkeypatch.setattr(sweeps, "launch", lambda one, command, workers: launched.append((one.name, command, workers)))
    page = new_page()
    page.switch_page("batch/page.py").run()
    page.segmented_control(key="batch_what").set_value("edit").run()
    page.number_input(key="batch_facts_edit").set_value(1)
    page.pills(key="batch_methods").set_value(["ft-m"])
    page.checkbox(key="batch_known").set_value(False).run()
    page.button(key="batch_estimate").click().run()
    assert not page.exception
    assert any("1 cell over 1 fact:" in element.value.replace("\\", "") for element in page.markdown)
    page.number_input(key="batch_seed").set_value(3).run()
    assert "estimate again" in page.warning[0].value
    page.number_input(key="batch_seed").set_value(0).run()
    assert page.text_input[0].value == "edit-atlas-1"
    page.text_input[0].set_value("no/folder")  # left by the click itself: the page has not drawn it yet
    page.button(key="batch_start").click().run()
    assert launched == []
    page.text_input[0].set_value("fine").run()
    page.text_input[0].set_value("mine")
    page.button(key="batch_start").click().run()
    assert not page.exception
    assert launched == [("mine", "resume", page.number_input(key="batch_workers").value)]
    assert page.query_params["experiment"] in ("mine", ["mine"])
    assert "Stopped: 0 of 1 cells done" in page.get("progress")[0].proto.text.replace("\\", "")
    page.button(key="experiment_resume").click().run()
    assert launched[1][:2] == ("mine", "resume")
    page.button(key="batch_estimate").click().run()
    page.text_input[0].set_value("mine").run()
    assert page.button(key="batch_start").disabled  # the name is taken
    assert "There is an experiment of that name" in page.caption[-1].value


def test_an_experiment_that_cannot_be_read_is_shown_with_the_reason(new_page: NewPage) -> None:
    (sweeps.root() / "broken").mkdir(parents=True)
    (sweeps.root() / "broken" / "ledger.sqlite").write_bytes(b"no database, this")
    assert sweeps.current("") is None
    found = sweeps.current("broken")
    assert found is not None
    assert found.problem
    page = new_page()
    page.query_params["experiment"] = "broken"
    page.switch_page("batch/page.py").run()
    assert not page.exception
    assert any("broken" in element.value for element in page.error)


FACT = Fact.from_prompt("Rome is the capital of", "Rome", "Italy")


class Running:
    """A process that goes on."""

    def poll(self) -> None:
        return None


def planned(name: str, owner: str = "") -> Experiment:
    """An experiment on disk that nobody computes."""
    folder = sweeps.root() / name
    with Ledger(folder) as ledger:
        one = Experiment(folder, ledger.add(Plan(name, "", (Cell("trace", {"fact": asdict(FACT)}),)), {}))
    (folder / sweeps.OWNER).write_text(owner)
    return one


def run(monkeypatch: pytest.MonkeyPatch, *running: Experiment) -> None:
    """As if processes of this server computed them."""
    monkeypatch.setattr(sweeps, "_children", {(str(one.folder), one.run): Running() for one in running})


def test_batches_have_a_cap_and_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # H13
    monkeypatch.setenv("ENGRAM_RUNS", str(tmp_path))
    monkeypatch.setenv("ENGRAM_PUBLIC", "1")
    plan = Plan("third", "", (Cell("trace", {}),))
    mine, theirs, shells = planned("mine", "me"), planned("theirs", "you"), planned("shells")
    run(monkeypatch, mine)
    with pytest.raises(ValueError, match="a batch of yours is running, the most here; stop it, or wait"):
        sweeps.start(plan, {}, 1, "me")
    run(monkeypatch, theirs, shells)
    with pytest.raises(ValueError, match="2 batches are running, the most at a time here; stop one, or wait"):
        sweeps.start(plan, {}, 1, "me")
    run(monkeypatch, theirs)
    with Ledger(shells.folder, create=False) as ledger:  # a process that an earlier server has started
        ledger.beat(shells.run, "elsewhere/1|7|8|9", "processes", 60)
    with pytest.raises(ValueError, match="2 batches are running"):
        sweeps.start(plan, {}, 1, "me")
    assert not (tmp_path / "third").exists()
    assert [sweeps.owner_of(one) for one in (mine, theirs, shells)] == ["me", "you", ""]


def test_on_a_public_page_nobody_sees_the_batches_of_others(new_page: NewPage, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs, _ = planned("mine", "me"), planned("theirs", "you"), planned("shells")
    run(monkeypatch, theirs)
    monkeypatch.setattr(sweeps, "reader", lambda: "me")
    assert {one.name for one in sweeps.shown()} == {"mine", "theirs", "shells"}
    monkeypatch.setenv("ENGRAM_PUBLIC", "1")
    assert {one.name for one in sweeps.shown()} == {"mine", "shells"}
    assert sweeps.current("mine") == mine
    assert sweeps.current("theirs") is None
    assert sweeps.current("") is None, "what runs is not theirs to see"
    page = new_page()
    for place in ("batch/page.py", "runs/page.py"):
        page.query_params["experiment"] = "theirs"
        page.switch_page(place).run()
        assert not page.exception
        assert "theirs" not in " ".join(str(each.value) for each in [*page.header, *page.markdown, *page.selectbox])
    assert set(page.dataframe[0].value["name"]) == {"mine", "shells"}
