"""`python -m tracing`: the table, the files, the JSON, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import build_tiny
from tests.tracing.made import made_result
from tracing import TraceResult
from tracing.__main__ import main, table

PROMPT = "the Space Needle is in"


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
    return main([prompt, "--subject", subject, "--model", folder, "--samples", "2", *more])


def test_the_table_and_every_file(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--html", "trace.html", "--csv", "trace.csv", "--npz", "trace.npz"]
    assert trace(folder, "--site", "mlp_out", "--window", "2", *files) == 0
    shown = capsys.readouterr()
    result = TraceResult.load("trace.npz")
    assert (result.config.site, result.config.window) == ("mlp_out", 2)
    assert f"clean {result.clean:.4f}" in shown.out
    assert f"sigma {result.noise_std:.4g} = 3 x" in shown.out
    assert "subjects" in result.noise_source  # measured on the atlas, as in the paper
    assert f"Suggested layer: {result.peak()[1]}" in shown.out
    assert "MLP output" in shown.out
    rows = [line for line in shown.out.splitlines() if line.startswith("␣Needle*") or "*" in line.split(" ")[0]]
    assert len(rows) == result.subject_span[1] - result.subject_span[0]
    assert Path("trace.pdf").read_bytes().startswith(b"%PDF")
    assert Path("trace.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(Path("trace.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(result.to_frame())
    assert shown.err == ""


def test_json_is_one_object(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(folder, "--json", "--out", "figure.svg", "--answer", "Seattle") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == "Seattle"
    assert record["config"]["site"] == "resid_post"
    assert Path("figure.svg").exists()


def test_modules_are_restored_in_windows_of_a_quarter_of_the_layers(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(folder, "--json", "--site", "attn_out") == 0
    assert json.loads(capsys.readouterr().out)["config"]["window"] == 1  # of four layers


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
        (PROMPT, "Space Needle", ["--samples", "0"], "samples is 0"),
        (PROMPT, "Space Needle", ["--noise", "-1"], "noise is -1.0"),
        (PROMPT, "Space Needle", ["--out", "trace.eps"], "end the name in .pdf, .svg or .png"),
        (PROMPT, "Space Needle", ["--out", "absent/trace.pdf"], "there is no folder 'absent'"),
        (PROMPT, "Space Needle", ["--width", "0"], "width is 0.0 inches"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    folder: str, prompt: str, subject: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(folder, *more, prompt=prompt, subject=subject) == 2
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


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("subject", "model", "answer", "site", "window", "samples", "noise", "seed", "json", "out"):
        assert f"--{option}" in shown


def test_a_corruption_without_effect_is_pointed_out() -> None:
    assert "takes little away" not in table(made_result())
    assert "takes little away" in table(made_result(clean=0.22))
