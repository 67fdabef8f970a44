"""Tables of a run, averages that are refused, and the command line from a plan to files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.__main__ import main
from experiments.cells.trace import level_of
from experiments.commands import line
from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.ledger.records import entries
from experiments.plan import Cell, Plan
from experiments.runner import Progress, execute
from experiments.summary import averaged, cells_frame, scores_frame, write_table
from experiments.workers.inline import Inline
from facts import Fact
from tests.experiments.made import draws, ledger_of
from tests.tiny import tiny_model
from tracing import TraceConfig, causal_trace, measure_noise
from tracing.average import by_category


def test_a_trace_cell_is_the_trace(tmp_path: Path) -> None:
    model = tiny_model("gpt_neo")
    fact = Fact("Space Needle", "The {} is located in the city of", "Seattle")
    level = measure_noise(model, ["Space Needle", "Rome"])
    config = TraceConfig(site="mlp_out", window=3, samples=2, seed=5)
    spec = {"fact": {"subject": fact.subject, "template": fact.template, "target_true": "Seattle"}}
    spec |= {"site": "mlp_out", "window": 3, "samples": 2, "seed": 5, "level": level_of(level)}
    cells = (Cell("trace", spec), Cell("trace", {**spec, "only_known": True}))
    with Ledger(tmp_path) as ledger:
        ledger.add(Plan("one", "tiny", cells), identity_of(model))
        execute(ledger, "one", Inline(model))
        kept, left_out = entries(ledger, "one")
    expected = causal_trace(model, fact, config, level=level)
    assert kept.result is not None
    np.testing.assert_array_equal(kept.result["restored"], expected.restored)
    np.testing.assert_array_equal(kept.result["by_category"], by_category(expected))
    assert (tuple(kept.result["tokens"]), kept.result["noise_std"]) == (expected.tokens, expected.noise_std)
    assert not expected.answer_is_greedy
    assert left_out.result == {"known": False}


def test_an_edit_cell_is_the_edit_and_its_scores(tmp_path: Path) -> None:
    from editing import apply_edits, get_method
    from editing.configs import make_config
    from facts import EditRequest
    from metrics import evaluate

    model = tiny_model("gpt2")
    request = EditRequest(Fact("Rome", "{} is the capital of", "Italy"), "France")
    from facts.records import read_request, request_record

    assert read_request(json.loads(json.dumps(request_record(request)))) == request
    spec = {"request": request_record(request), "method": "ft-m", "layer": 2}
    cells = tuple(Cell("edit", {**spec, "settings": {"steps": steps}}) for steps in (3, 1))
    with Ledger(tmp_path) as ledger:
        ledger.add(Plan("one", "tiny", cells), identity_of(model))
        execute(ledger, "one", Inline(model))
        entry, _ = entries(ledger, "one")
        assert entry.result is not None, entry.reason
        frame = scores_frame(ledger, "one")
    assert main(["export", "--out", str(tmp_path)]) == 0
    means = pd.read_csv(tmp_path / "one" / "means.csv")
    assert set(means["settings.steps"]) == {3, 1}  # edits with other settings have no common mean
    greedy = means[(means["name"] == "reliability.greedy") & (means["settings.steps"] == 3)]
    assert (list(greedy["after"]), list(greedy["n"])) == ([entry.result["scores"][0]["after"]], [1])
    assert (tmp_path / "one" / "means.tex").read_text().startswith(r"\begin{tabular}")
    method = get_method("ft-m")
    edit = method.compute(model, [request], make_config(method.config_type, {"layer": 2, "steps": 3}))
    report = evaluate(model, apply_edits(model, [edit]), request)
    assert entry.result["edit_digest"] == edit.digest
    found = {score["name"]: score["after"] for score in entry.result["scores"]}
    assert found == {score.name: score.value for score in report.scores if score.metric != "efficiency"}
    assert {"seconds", "cpu_seconds", "edit_seconds", "peak_memory"} <= set(entry.notes)
    assert set(frame["protocol"]) == {"engram"}
    assert set(frame["method"]) == {"ft-m"}


def test_one_row_a_cell(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(3)) as ledger:
        execute(ledger, "draws", Inline())
        frame = cells_frame(ledger, "draws")
    assert list(frame["seed"]) == [0, 1, 2]
    assert set(frame["status"]) == {"done"}
    assert frame["mean"][0] == pytest.approx(np.random.default_rng(0).normal(size=64).mean(), abs=1e-6)
    assert "values" not in frame, "arrays stay in the ledger"
    assert (frame["note.seconds"] > 0).all()


def test_means_by_hand_and_no_mean_across_protocols() -> None:
    frame = pd.DataFrame(
        {
            "method": ["a", "a", "b", "b", "b", "b"],
            "protocol": ["engram", "engram", "rome", "rome", "rome", "rome"],
            "value": [0.0, 1.0, 2.0, 2.0, 2.0, None],
        }
    )
    found = averaged(frame, "value", ["method"])
    assert list(found["value"]) == [0.5, 2.0]
    assert list(found["n"]) == [2, 3]
    assert found["ci_low"].isna()[0], "two values are too few for an interval"
    assert (found["ci_low"][1], found["ci_high"][1]) == (2.0, 2.0)
    with pytest.raises(ValueError, match=r"several protocols \(engram, rome\); numbers measured in different ways"):
        averaged(frame.assign(all=1), "value", ["all"])
    assert len(averaged(frame.assign(all=1), "value", ["all", "protocol"])) == 2
    with pytest.raises(ValueError, match="the table has no column 'valu'; choose from method"):
        averaged(frame, "valu", ["method"])


def test_tables_for_other_programs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"subject": ["=1+1", "a_b"], "value": [-1.5, None]})
    csv = write_table(frame, tmp_path / "t.csv").read_text()
    assert csv == "subject,value\n'=1+1,-1.5\na_b,\n"
    pd.testing.assert_frame_equal(pd.read_parquet(write_table(frame, tmp_path / "t.parquet")), frame)
    tex = write_table(frame, tmp_path / "t.tex").read_text()
    assert r"a\_b & -- \\" in tex
    assert r"\toprule" in tex
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(ValueError, match=r"end its name in \.parquet, \.csv, \.tex"):
        write_table(frame, tmp_path / "t.xlsx")


# ---- the command line

PLAN = (
    'name = "small"\nmodel = ""\n[[grid]]\nkind = "draw"\nseed = [0, 1, 2]\n[[grid]]\nkind = "poison"\nhow = "raise"\n'
)


def test_from_a_plan_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN)
    assert main(["run", str(plan), "--out", str(out)]) == 1, "a cell fails"
    told = capsys.readouterr()
    assert "4 cells in" in told.err
    assert "3 done, 1 failed, 0 left of 4" in told.err
    assert "RuntimeError: the cell is poisoned" in told.err
    assert str(out / "small" / "cells.parquet") in told.out.split()
    assert main(["status", "--out", str(out), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["cells"]["done"], found["working"]) == ("small", 3, [])
    assert found["failures"][0]["attempts"] == 3
    assert main(["status", "--out", str(out)]) == 0
    assert "small: 0 todo, 0 leased, 3 done, 1 failed" in capsys.readouterr().out
    assert main(["retry", "--out", str(out)]) == 1
    assert "1 failed cells are tried again" in capsys.readouterr().err
    assert main(["resume", "--out", str(out)]) == 1
    assert main(["export", "--out", str(out)]) == 0
    capsys.readouterr()
    assert len(pd.read_parquet(out / "small" / "cells.parquet")) == 4


def test_ctrl_c_stops_after_the_cell_in_hand_and_resume_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ledger_of(tmp_path, draws(40, seconds=0.02)) as ledger:

        def press() -> None:
            while ledger.counts("draws")["done"] < 3:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        assert main(["resume", "--out", str(tmp_path)]) == 1
        told = capsys.readouterr().err
        assert "stopping once the current cells are done" in told
        assert f"stopped; go on with: python -m experiments resume --out {tmp_path}" in told
        counts = ledger.counts("draws")
        assert 3 <= counts["done"] < 40
        assert counts["leased"] == counts["failed"] == 0
        assert main(["resume", "--out", str(tmp_path)]) == 0
        assert ledger.counts("draws")["done"] == 40


def test_the_doctor_finds_and_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ledger_of(tmp_path, draws(3)) as ledger:
        execute(ledger, "draws", Inline())
        key = next(entries(ledger, "draws")).key
        assert main(["doctor", "--out", str(tmp_path)]) == 0
        assert capsys.readouterr().out == "draws: 3 cells checked, 0 damaged\n"
        with ledger.write() as connection:
            connection.execute("UPDATE results SET payload = x'00' WHERE key = ?", (key,))
    assert main(["doctor", "--out", str(tmp_path)]) == 1
    assert f"draws: cell {key[:12]}: its result is not what was written" in capsys.readouterr().out
    assert main(["export", "--out", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert main(["doctor", "--mend", "--out", str(tmp_path)]) == 0
    assert main(["resume", "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "none.toml"], "there is no plan 'none.toml'"),
        (["run", "avrage-effects"], "unknown study 'avrage-effects'"),
        (["status", "--out", "/nowhere"], "there is no ledger '/nowhere/ledger.sqlite'"),
        (["run", "PLAN", "--workers", "0", "--executor", "processes"], "workers is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    arguments = [str(plan) if word == "PLAN" else word for word in arguments]
    more = ["--out", str(tmp_path / "out")] if "--out" not in arguments else []
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error


def test_status_needs_no_torch(tmp_path: Path) -> None:
    ledger_of(tmp_path, draws(2)).close()
    script = (
        "import sys; from experiments.__main__ import main; "
        f"main(['status', '--out', {str(tmp_path)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["draws: 2 todo, 0 leased, 0 done, 0 failed", "False"]


def test_how_far_it_is_in_words() -> None:
    assert line(Progress(3, 0, 10, 0, None, None)) == "3/10 done"
    assert line(Progress(3, 1, 10, 2, 0.5, 3725.4)) == "3/10 done, 1 failed, 2 s a cell, 1:02:05 left"
