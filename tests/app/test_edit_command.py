"""`python -m editing`: what it prints, and one sentence for every mistake."""

import json
from pathlib import Path

import pytest

from app.edit_command import main
from editing.files import load_edit
from tests.tiny import build_tiny

PROMPT = "The Space Needle is located in the city of"
FAST = ["--second-moment", "identity", "--steps", "2", "--prefixes", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny GPT-2 on disk."""
    path = tmp_path_factory.mktemp("gpt2")
    module, tokenizer = build_tiny("gpt2")
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def arguments(folder: str, **changes: str) -> list[str]:
    chosen = {"subject": "Space Needle", "target-new": "Paris", "layer": "1", "model": folder} | changes
    prompt = chosen.pop("prompt", PROMPT)
    return [prompt, *(word for name, value in chosen.items() for word in (f"--{name}", value)), *FAST]


def test_prints_diagnostics_and_five_metrics(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "edit.safetensors"
    assert main([*arguments(folder, save=str(path)), "--keep-broken"]) == 0
    shown = capsys.readouterr().out
    for word in ("Reliability", "Generalization", "Locality", "Portability", "Efficiency", "relative change"):
        assert word in shown
    assert "Seattle → Paris" in shown
    assert load_edit(path).requests[0].target_new == "Paris"


def test_an_edit_is_written_as_adapters(folder: str, tmp_path: Path) -> None:
    places = {"save-adapter": str(tmp_path / "peft"), "save-gguf": str(tmp_path / "edit.gguf")}
    assert main([*arguments(folder, **places), "--keep-broken"]) == 0
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "edit.gguf").is_file()


def test_an_edit_can_be_placed_at_any_token_of_the_subject(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = []
    for number in ("0", "1"):
        assert main([*arguments(folder), "--fact-token", f"subject:{number}", "--json"]) == 0
        edit = json.loads(capsys.readouterr().out)["edit"]
        assert edit["config"]["fact_token"] == f"subject:{number}"
        keys.append(edit)
    assert keys[0]["diagnostics"] != keys[1]["diagnostics"]


def test_json_is_one_object(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["edit"]["config"]["layer"] == 1
    assert {score["metric"] for score in printed["report"]["scores"]} == {
        "reliability", "generalization", "locality", "portability", "efficiency",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": "Eiffel Tower"}, "does not occur in the prompt"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": PROMPT.replace("is", "is very" * 60)}, "tokens long"),
        ({"model": "./nowhere"}, "no folder"),
        ({"layer": "4"}, "layer 4 is out of range: this model has layers 0 to 3"),
        ({"target-new": "Seattle"}, "equals the true answer"),
        ({"norm-limit": "-1"}, "norm_limit is -1.0"),
        ({"fact-token": "middle"}, "unknown fact_token 'middle'"),
        ({"fact-token": "subject:9"}, "has 2 tokens, counted from 0; choose a token from subject:0 to subject:1"),
        ({"save": "/no/such/folder/edit"}, "there is no folder"),
        ({"save": "."}, "'.' is a folder; give the path of a file"),
    ],
)
def test_mistakes_are_one_sentence(
    changes: dict[str, str], words: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, **changes)) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_report_is_printed_even_if_the_edit_fits_no_adapter(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [PROMPT, "--subject", "Space Needle", "--target-new", "Paris", "--model", folder, "--method", "grace"]
    assert (
        main([*asked, "--layer", "1", "--steps", "2", "--keep-broken", "--save-adapter", str(tmp_path / "peft")]) == 2
    )
    shown = capsys.readouterr()
    assert "Reliability" in shown.out
    assert "Edit written" not in shown.out
    assert "is no low-rank change of weights" in shown.err.splitlines()[-1]


def test_folder_without_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, tokenizer = build_tiny("gpt2")
    module.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert main(arguments(str(tmp_path))) == 2
    assert "safetensors" in capsys.readouterr().err


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "--norm-limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "settings", "operation"),
    [
        ("ice", ["--reserve", "30"], "PromptOp"),
        ("grace", ["--layer", "1", "--steps", "3"], "CodebookOp"),
        ("ft-m", ["--layer", "1", "--steps", "2"], "DenseDelta"),
    ],
)
def test_methods_of_every_kind_run(
    folder: str, method: str, settings: list[str], operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["The Needle is in", "--subject", "Needle", "--target-new", "Rome", "--answer", "Oslo"]
    given = [*asked, "--model", folder, "--method", method, *settings]
    assert main([*given, "--json"]) == 0
    edit = json.loads(capsys.readouterr().out)["edit"]
    assert edit["method"] == method
    assert edit["operations"] == [operation]
    assert main(given) == 0
    assert f"; {method}" in capsys.readouterr().out


def test_a_misspelt_method_is_told_in_one_sentence(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["The Needle is in", "--subject", "Needle", "--target-new", "Rome", "--model", folder]
    assert main([*asked, "--method", "gracee"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'gracee'; did you mean 'grace'?")


def test_a_broken_edit_is_told_and_not_saved_unasked(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps held to nearly nothing: the new answer stays as unlikely as it was."""
    path = tmp_path / "edit.safetensors"
    asked = arguments(folder, save=str(path), **{"norm-limit": "0.01"})
    assert main(asked) == 0
    told = capsys.readouterr()
    assert "this edit is broken: the new answer has a probability of" in told.err
    assert "--keep-broken" in told.err
    assert "Edit written" not in told.out
    assert not path.exists()
    assert main([*asked, "--keep-broken", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["broken"]) == 1
    assert path.exists()


def test_without_a_layer_the_usual_one_is_taken_and_told(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [word for word in arguments(folder) if word not in ("--layer", "1")]
    assert main([*asked, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["edit"]["config"]["layer"] == 1  # the later of the first two of four
    assert "no --layer given. Layer 1 is a guess by depth" in told.err
