"""`python -m tracing`: every command, every file it writes, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from facts import Fact
from tests.tiny import build_tiny, tiny_model
from tests.tracing.made import made_result
from tests.tracing.test_average import known_facts
from tracing import TraceConfig, TraceResult
from tracing.__main__ import COMMANDS, main
from tracing.cli.tables import trace_table

PROMPT = "the Space Needle is in"
TWO = ("--samples", "2")
DATASETS = Path(__file__).parents[1] / "facts" / "importers" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    module, tokenizer = build_tiny("gpt2")
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trace(folder: str, *more: str, prompt: str = PROMPT, subject: str = "Space Needle") -> int:
    return main([prompt, "--subject", subject, "--model", folder, *TWO, *more])


def about(command: str, folder: str, *more: str) -> int:
    return main([command, PROMPT, "--subject", "Space Needle", "--model", folder, *more])


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def test_the_table_and_every_file(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--out", "trace.pdf", "--html", "trace.html", "--csv", "trace.csv", "--npz", "trace.npz"]
    assert trace(folder, "--site", "mlp_out", "--window", "2", *files) == 0
    shown = capsys.readouterr()
    result = TraceResult.load("trace.npz")
    assert (result.config.site, result.config.window) == ("mlp_out", 2)
    assert f"clean {result.clean:.4f}" in shown.out
    assert "Gaussian noise of 3 x the standard deviation of the embeddings of" in shown.out
    assert f"(sigma {result.noise_std:.4g})" in shown.out
    assert "subjects" in result.noise_source  # measured on the atlas, as in the paper
    assert f"Largest effect before the last token: {result.largest()}" in shown.out
    assert f"Suggested layer: none. {result.suggestion().reason}" in shown.out  # random weights hold no fact
    assert "MLP output" in shown.out
    rows = [line for line in shown.out.splitlines() if line.startswith("␣Needle*") or "*" in line.split(" ")[0]]
    assert len(rows) == result.subject_span[1] - result.subject_span[0]
    assert Path("trace.pdf").read_bytes().startswith(b"%PDF")
    assert Path("trace.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(Path("trace.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(result.to_frame())
    assert shown.err == ""


def test_no_figure_is_written_unasked_and_its_command_is_named(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("For the figure: python -m tracing ")
    assert not list(Path().iterdir())
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Figure written to trace.pdf"
    assert Path("trace.pdf").read_bytes().startswith(b"%PDF")


def test_a_saved_map_is_drawn_from_its_file(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--npz", "my map.npz", "--measure", "log_probability", "--answer", "Seattle") == 0
    shown = capsys.readouterr().out
    command = shown.splitlines()[-1].removeprefix("For the figure: python -m tracing ")
    assert command == "open 'my map.npz' --measure log_probability --out trace.pdf"
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == shown.splitlines()[:-1]


def test_json_is_one_object(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--json", "--out", "figure.svg", "--answer", "Seattle") == 0
    record = printed(capsys)
    assert record["answer"] == "Seattle"
    assert record["config"]["site"] == "resid_post"
    assert Path("figure.svg").exists()


def test_modules_are_restored_in_windows_of_a_quarter_of_the_layers(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(folder, "--json", "--site", "attn_out") == 0
    assert printed(capsys)["config"]["window"] == 1  # of four layers


def test_every_field_of_the_config_is_an_option(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        "site": "mlp_out",
        "window": 2,
        "window_centre": "rome-code",
        "noise": 1.5,
        "samples": 3,
        "seed": 7,
        "batch_size": 11,
        "corruption": "uniform",
        "direction": "noising",
        "against": "Rome",
    }
    flags = [part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert (
        main(["trace", PROMPT, "--subject", "Space Needle", "--model", folder, "--json", "--no-additive", *flags]) == 0
    )
    config = printed(capsys)["config"]
    assert config == config | asked | {"additive": False}
    other = ["--severed", "mlp_out", "--counterfactual", "Rome city", "--json"]
    assert trace(folder, *other) == 0
    config = printed(capsys)["config"]
    assert (config["severed"], config["corruption"], config["counterfactual"]) == ("mlp_out", "token", "Rome city")
    assert {*asked, "additive", "severed", "counterfactual"} == {field.name for field in fields(TraceConfig)}


def test_three_panels_come_from_one_command_and_again_from_its_files(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    style = ["--title", "Needle", "--model-name", "Tiny", "--palette", "grey", "--marks", "none"]
    assert (
        trace(folder, "--panels", "all", "--out", "panels.pdf", "--npz", "maps.npz", "--csv", "maps.csv", *style) == 0
    )
    capsys.readouterr()
    files = ["maps-state.npz", "maps-mlp.npz", "maps-attn.npz"]
    results = [TraceResult.load(name) for name in files]
    assert [result.config.site for result in results] == ["resid_post", "mlp_out", "attn_out"]
    assert set(pd.read_csv("maps.csv")["site"]) == {"resid_post", "mlp_out", "attn_out"}
    assert trace(folder, "--site", "mlp_out", "--npz", "alone.npz") == 0
    np.testing.assert_array_equal(TraceResult.load("alone.npz").restored, results[1].restored)
    assert main(["open", *files, "--out", "again.pdf", *style]) == 0
    assert Path("again.pdf").read_bytes() == Path("panels.pdf").read_bytes()
    assert main(["open", *files, "--out", "paper.zip"]) == 0
    assert "figure.eps" in zipfile.ZipFile("paper.zip").namelist()
    capsys.readouterr()
    assert main(["open", files[1], "alone.npz", "--difference", "--out", "difference.eps"]) == 0
    assert "Largest change: +0.0000" in capsys.readouterr().out
    for arguments, reason in (
        (["open", *files, "--difference"], "a difference is of two maps; 3 were named"),
        (["open", files[0], files[1], "--difference"], "the two traces have different sites"),
    ):
        assert main(arguments) == 2
        assert reason in capsys.readouterr().err
    assert trace(folder, "--panels", "all", "--site", "mlp_out") == 2
    assert "leave --site and --severed out" in capsys.readouterr().err


def test_every_lens_writes_its_figures_and_opens_again(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {
        "lens": (["--target", "Rome"], "logit lens of"),
        "knockout": (["--window", "2"], "last <- subject"),
        "attribution": ([*TWO, "--verify", "2"], "ESTIMATED effects"),
        "paths": ([*TWO, "--sender", "mlp_out:1:-2", "--through", "mlps"], "Paths from mlp_out 1 @ 4"),
    }
    for command, (more, words) in wanted.items():
        files = ["--out", f"{command}.pdf", "--html", "page.html", "--npz", f"{command}.npz", "--csv", "table.csv"]
        assert about(command, folder, *more, *files) == 0
        shown = capsys.readouterr()
        assert words in shown.out
        assert "nan" not in shown.out
        assert f"Figure written to {command}.pdf" in shown.out
        assert Path(f"{command}.pdf").read_bytes().startswith(b"%PDF")
        assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
        assert len(pd.read_csv("table.csv")) > 2
        assert main(["open", f"{command}.npz", "--out", "again.png"]) == 0
        assert words in capsys.readouterr().out
        assert Path("again.png").read_bytes().startswith(b"\x89PNG")
        Path("again.png").unlink()
    assert about("attribution", folder, *TWO, "--verify", "2") == 0
    assert "Verified exactly" in capsys.readouterr().out


def test_heads_are_drawn_and_listed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--site", "attn_heads", "--html", "heads.html") == 0
    assert "head 3" in capsys.readouterr().out
    assert about("attribution", folder, *TWO, "--site", "attn_heads") == 0
    assert " head " in capsys.readouterr().out


def test_a_tuned_lens_is_fitted_saved_and_used_again(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert about("lens", folder, "--tuned", "--save-tuned", "tuned.npz", "--json") == 0
    first = printed(capsys)
    assert first["lens"] == "tuned"
    assert about("lens", folder, "--tuned-from", "tuned.npz", "--json") == 0
    assert printed(capsys) == first


def test_neurons_are_estimated_verified_and_opened_again(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert about("attribution", folder, *TWO, "--neurons", "--verify", "2", "--npz", "neurons.npz") == 0
    shown = capsys.readouterr().out
    assert "ESTIMATED effects of neurons" in shown
    assert "Verified exactly" in shown
    assert main(["open", "neurons.npz"]) == 0
    assert "ESTIMATED effects of neurons" in capsys.readouterr().out


def test_a_fraction_is_a_measure(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--measure", "fraction_restored") == 0
    assert "total effect 1.0000 (of the total effect)" in capsys.readouterr().out


def test_another_measure(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--measure", "kl", "--npz", "trace.npz") == 0
    assert "the divergence from the clean run" in capsys.readouterr().out
    assert main(["open", "trace.npz", "--measure", "log_probability"]) == 0
    assert "nats" in capsys.readouterr().out


def test_a_counterfactual_is_suggested_and_taken(capsys: pytest.CaptureFixture[str]) -> None:
    fact = ["The Space Needle is located in the city of", "--subject", "Space Needle"]
    assert main(["counterfactuals", *fact, "--json", "--limit", "2"]) == 0
    first = printed(capsys)[0]["subject"]
    assert main(["trace", *fact, "--corruption", "token", "--json"]) == 0
    config = printed(capsys)["config"]
    assert (config["corruption"], config["counterfactual"]) == ("token", first)


def known_csv(path: Path) -> None:
    """Two facts that the tiny model knows, and one it does not."""
    facts = [*known_facts(tiny_model("gpt2"))[:2], Fact.from_prompt(PROMPT, "Space Needle", "Copenhagen")]
    rows = [f"{fact.subject},{fact.prompt},{fact.target_true}" for fact in facts]
    path.write_text("\n".join(["subject,prompt,answer", *rows]) + "\n", encoding="utf-8")


def test_a_file_of_facts_is_traced_and_averaged(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known_csv(tmp_path / "facts.csv")
    assert main(["facts", "facts.csv", "--folder", "out", "--model", folder, *TWO]) == 0
    summary = pd.read_csv("out/summary.csv")
    assert summary["known"].tolist() == [True, True, False]
    second = TraceResult.load("out/0001.npz")
    assert second.prompt == summary["prompt"][1]
    assert summary["largest_token"][1] == second.largest().token
    assert summary["largest_effect"][1] == pytest.approx(second.largest().effect)
    assert summary["suggested"].isna().all()  # of random weights
    assert summary["suggested_reason"][1] == second.suggestion().reason
    capsys.readouterr()
    for _ in range(2):
        assert main(["facts", "facts.csv", "--folder", "out", "--model", folder, *TWO]) == 2
        check_sentence("'out' holds the traces of an earlier run; choose another folder, or remove it", capsys)
        Path("out/summary.csv").unlink(missing_ok=True)  # which a killed run lacks
    more = [
        "--sever",
        "mlp_out",
        "--journal",
        "done.jsonl",
        "--npz",
        "average.npz",
        "--html",
        "average.html",
        "--out",
        "average.pdf",
        "--per-fact",
        "each.csv",
    ]
    assert main(["average", "facts.csv", "--model", folder, *TWO, *more]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"2 facts, average total effect .*, too few for an interval\n", shown)
    assert "left out: 1 facts the model does not know" in shown
    assert "corrupted with Gaussian noise of 3 x the standard deviation of the embeddings of 3 subjects" in shown
    assert "residual stream, MLP output severed, by token and layer" in shown
    assert len(Path("done.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert set(pd.read_csv("each.csv")["prompt"]) == set(summary["prompt"][:2])
    assert Path("average.pdf").read_bytes().startswith(b"%PDF")
    assert main(["open", "average.npz", "--json", "--csv", "average.csv"]) == 0
    assert printed(capsys)["n_facts"] == 2
    assert {"q50", "significant"} <= set(pd.read_csv("average.csv"))


def test_published_files_are_traced_as_they_are(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """CounterFact's records, known_1000's with their `prompt`, and facts without answers; bad rows are set aside."""
    assert main(["facts", str(DATASETS / "counterfact.json"), "--folder", "out", "--model", folder, *TWO]) == 0
    rewrites = json.loads((DATASETS / "counterfact.json").read_text(encoding="utf-8"))
    asked = [row["requested_rewrite"] for row in rewrites]
    summary = pd.read_csv("out/summary.csv")
    assert summary["prompt"].tolist() == [one["prompt"].format(one["subject"]) for one in asked]
    rows = json.loads((DATASETS / "known_1000.json").read_text(encoding="utf-8"))
    Path("known.json").write_text(json.dumps([rows[0], {**rows[1], "subject": 5}]), encoding="utf-8")
    capsys.readouterr()
    assert main(["facts", "known.json", "--folder", "known", "--model", folder, *TWO]) == 0
    assert "note: 1 row was set aside: row 2 (line 1): subject is not a text" in capsys.readouterr().err
    summary = pd.read_csv("known/summary.csv")
    assert summary["prompt"].tolist() == ["Vinson Massif is located in the continent of"]  # not the template's
    Path("asked.csv").write_text("subject,prompt\nRome,Rome is in\n", encoding="utf-8")
    assert main(["facts", "asked.csv", "--folder", "asked", "--model", folder, *TWO]) == 0
    assert pd.read_csv("asked/summary.csv")["known"].isna().all()  # the model's own answer is not known to be true


def test_an_average_leaves_out_facts_without_an_answer(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"subject": fact.subject, "prompt": fact.prompt, "target_new": "nowhere", "target_true": fact.target_true}
        for fact in known_facts(tiny_model("gpt2"))[:1]
    ]
    Path("facts.json").write_text(json.dumps([*rows, {**rows[0], "target_true": ""}]), encoding="utf-8")
    assert main(["average", "facts.json", "--model", folder, *TWO]) == 0
    shown = capsys.readouterr()
    assert "note: 1 facts were left out, since the file states no true answer for them" in shown.err
    assert "1 facts, average total effect" in shown.out


@pytest.mark.parametrize(
    ("prompt", "subject", "more", "message"),
    [
        (PROMPT, "Eiffel Tower", [], "the subject 'Eiffel Tower' does not occur in the prompt"),
        ("", "Rome", [], "the prompt is empty"),
        ("   ", "Rome", [], "the prompt is empty"),
        (PROMPT, " ", [], "the subject is empty"),
        ("Rome is " + "very " * 90, "Rome", [], "takes at most 64"),
        ("Rome " * 2000, "Rome", [], "characters; at most 4000 are taken"),
        (PROMPT, "Space Needle", ["--model", "./absent"], "absent"),
        (PROMPT, "Space Needle", ["--model", "nobody/no-such-model"], "nobody/no-such-model"),
        (PROMPT, "Space Needle", ["--window", "9"], "window is 9, but"),
        (PROMPT, "Space Needle", ["--samples", "0", "--model", "./absent"], "samples is 0"),  # before the model is read
        (PROMPT, "Space Needle", ["--noise", "-1"], "noise is -1.0"),
        (PROMPT, "Space Needle", ["--noise", "0"], "leaves the subject's embeddings as they are"),
        (PROMPT, "Space Needle", ["--counterfactual", "Rome"], "takes 1 tokens where the subject"),
        (PROMPT, "Space Needle", ["--measure", "logit_difference"], "has no measure 'logit_difference'"),
        (PROMPT, "Space Needle", ["--out", "trace.gif"], "end the name in .pdf, .svg, .eps, .png or .zip"),
        (PROMPT, "Space Needle", ["--out", "absent/trace.pdf"], "there is no folder 'absent'"),
        (PROMPT, "Space Needle", ["--csv", "."], "'.' is a folder; give the path of a file to write"),
        (PROMPT, "Space Needle", ["--width", "0", "--out", "trace.pdf"], "width is 0.0 inches"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    folder: str, prompt: str, subject: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(folder, *more, prompt=prompt, subject=subject) == 2
    check_sentence(message, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["open", "absent.npz"], "there is no file 'absent.npz'"),
        (["facts", "absent.csv", "--folder", "out"], "there is no file 'absent.csv'"),
        (["facts", "asked.csv", "--folder", "facts.txt"], "'facts.txt' is a file; give a folder"),
        (["average", "atlas", "--limit", "-3"], "limit is -3; expected a whole number of at least 1"),
        (["counterfactuals", PROMPT, "--subject", "Space Needle", "--limit", "-3"], "limit is -3; expected"),
        (["attribution", PROMPT, "--subject", "Space Needle", "--verify", "-2"], "verify is -2; expected"),
        (["average", "facts.txt"], "facts.txt is neither JSON nor a table"),
        (["average", "asked.csv"], "asked.csv states no true answer, by which the facts that a model knows are told"),
        (["paths", PROMPT, "--subject", "Space Needle", "--sender", "mlp_out"], "write site:layer:position"),
        (["paths", PROMPT, "--subject", "Space Needle", "--sender", "mlp_in:1:1"], "choose from resid_post"),
        (["lens", PROMPT, "--subject", "Space Needle", "--top-k", "0"], "top_k is 0"),
        (["lens", PROMPT, "--subject", "Space Needle", "--tuned-from", "absent.npz"], "there is no file 'absent.npz'"),
        (["knockout", PROMPT, "--subject", "Space Needle", "--window", "0"], "window is 0, but"),
        (["counterfactuals", PROMPT, "--subject", "Space Needle"], "the atlas holds no relation for the prompt"),
    ],
)
def test_what_is_wrong_with_other_commands_is_said_too(
    folder: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("facts.txt").write_text("Rome", encoding="utf-8")
    Path("asked.csv").write_text("subject,prompt,target_new\nRome,Rome is in,France\n", encoding="utf-8")
    model = [] if arguments[0] == "open" else ["--model", folder]
    assert main([*arguments, *model]) == 2
    check_sentence(message, capsys)


def check_sentence(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_folder_without_safetensors_is_refused(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert trace(str(tmp_path / "bare")) == 2
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    if command == "trace":
        for option in ("subject", "model", "answer", "measure", "out", *(field.name for field in fields(TraceConfig))):
            assert f"--{option.replace('_', '-')}" in shown


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_a_corruption_without_effect_is_pointed_out() -> None:
    assert "takes little away" not in trace_table(made_result())
    assert "takes little away" in trace_table(made_result(clean=0.22))
