"""The ledger: undo of any one edit, branches, files, merged folders, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from editing import Edit, apply_edits
from editing.files import save_edit
from editing.ledger import Ledger
from models import LanguageModel, load_model
from tests.editing import made as by_hand
from tests.editing.made import IDS, PROMPT, made
from tests.tiny import tiny_model


@pytest.fixture
def model() -> LanguageModel:
    return tiny_model("gpt2")


@pytest.fixture
def edits(model: LanguageModel) -> list[Edit]:
    return [
        made(model, by_hand.low_rank(model, 0, 0)),
        made(model, by_hand.entry(model, 1, radius=50.0), method="wise"),
        made(model, by_hand.dense(model, 2, 2)),
        made(model, by_hand.stated(model, "New fact: it is in Paris."), method="wise"),
    ]


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_undo_of_any_one_and_putting_it_back(model: LanguageModel, edits: list[Edit]) -> None:
    ledger = Ledger(model)
    for edit in edits:
        ledger.add(edit)
    every = ledger.view().logits(IDS)
    for index, edit in enumerate(edits):
        assert ledger.undo(edit.digest[:10]) is edit
        rest = [each for each in edits if each is not edit]
        assert torch.equal(ledger.view().logits(IDS), apply_edits(model, rest).logits(IDS))
        assert not torch.equal(ledger.view().logits(IDS), every)
        ledger.add(edit, position=index)
        assert torch.equal(ledger.view().logits(IDS), every)
    for _ in edits:
        ledger.undo()
    assert torch.equal(ledger.view().logits(IDS), model.logits(IDS))
    with pytest.raises(ValueError, match="no edit to undo"):
        ledger.undo()


def test_branches_part_and_are_compared(model: LanguageModel, edits: list[Edit]) -> None:
    ledger = Ledger(model)
    ledger.add(edits[0])
    ledger.add(edits[2])
    ledger.branch("words", keep=1)
    ledger.add(edits[3])
    assert ledger.current == "words"
    assert ledger.branches == {
        "main": (edits[0].digest, edits[2].digest),
        "words": (edits[0].digest, edits[3].digest),
    }
    found = ledger.compare("main", "words", [PROMPT, "Rome"], 4)
    assert (found.only_first, found.only_second, found.shared) == ((edits[2],), (edits[3],), (edits[0],))
    assert [answer.first for answer in found.answers] == ledger.view("main").generate([PROMPT, "Rome"], 4)
    assert [answer.second for answer in found.answers] == ledger.view("words").generate([PROMPT, "Rome"], 4)
    assert any(answer.differs for answer in found.answers)
    assert not any(answer.differs for answer in ledger.compare("main", "main", [PROMPT], 4).answers)
    ledger.switch("main")
    assert ledger.edits() == (edits[0], edits[2])
    with pytest.raises(ValueError, match="did you mean 'words'"):
        ledger.switch("word")
    for name in ("", "main"):
        with pytest.raises(ValueError, match="cannot be called"):
            ledger.branch(name)
    with pytest.raises(ValueError, match="has 2 edits"):
        ledger.branch("more", keep=3)


def test_a_ledger_in_a_folder_is_there_again(model: LanguageModel, edits: list[Edit], tmp_path: Path) -> None:
    ledger = Ledger(model, tmp_path / "ledger")
    for edit in edits:
        ledger.add(edit)
    ledger.branch("short", keep=2)
    ledger.undo(edits[0].digest)
    read = Ledger(model, tmp_path / "ledger")
    assert (read.branches, read.current) == (ledger.branches, "short")
    for branch in ("main", "short"):
        assert torch.equal(read.view(branch).logits(IDS), ledger.view(branch).logits(IDS))
        assert read.view(branch).generate([PROMPT], 5) == ledger.view(branch).generate([PROMPT], 5)
    with pytest.raises(ValueError, match="load its model"):
        Ledger(tiny_model("gpt2", seed=1), tmp_path / "ledger")


def test_sequential_edits_are_of_the_base_and_know_their_parents(model: LanguageModel, edits: list[Edit]) -> None:
    ledger = Ledger(model)
    first = ledger.add(edits[0])
    second = ledger.add(made(ledger.view(), by_hand.low_rank(model, 1, 5)))
    assert (second.model_revision, second.parents) == (model.revision, (first.digest,))
    assert ledger.view().notes == ()
    ledger.undo(first.digest)
    assert len(ledger.view().notes) == 1
    with pytest.raises(ValueError, match="already has this edit"):
        ledger.add(second)
    stranger = made(tiny_model("gpt2", seed=1), by_hand.low_rank(model, 1, 5))
    with pytest.raises(ValueError, match="import it with force"):
        ledger.add(stranger)


def test_one_edit_travels_as_a_file(model: LanguageModel, edits: list[Edit], tmp_path: Path) -> None:
    ledger, other = Ledger(model), Ledger(tiny_model("gpt2", seed=1))
    for edit in edits:
        ledger.add(edit)
    for edit in edits:
        path = tmp_path / f"{edit.digest}.safetensors"
        save_edit(edit, path)
        assert path.stat().st_size < 40_000
        with pytest.raises(ValueError, match="computed from weights"):
            other.import_edit(path)
        assert other.import_edit(path, force=True).content == edit.content
    assert len(other.edits()) == len(edits)
    fresh = Ledger(model)
    for edit in edits:
        assert fresh.import_edit(tmp_path / f"{edit.digest}.safetensors").digest == edit.digest
    assert torch.equal(fresh.view().logits(IDS), ledger.view().logits(IDS))
    assert fresh.view().generate([PROMPT], 5) == ledger.view().generate([PROMPT], 5)
    with pytest.raises(ValueError, match="0 edits of 'main' are called 'abc'"):
        ledger.undo("abc")


def test_bad_files_are_refused_in_words_and_change_nothing(
    model: LanguageModel, edits: list[Edit], tmp_path: Path
) -> None:
    folder = tmp_path / "ledger"
    ledger = Ledger(model, folder)
    ledger.add(edits[0])
    before = state(folder)
    good = tmp_path / "good.safetensors"
    save_edit(edits[2], good)
    whole = good.read_bytes()
    llama = tiny_model("llama")
    save_edit(made(llama, by_hand.low_rank(llama, 0, 0)), tmp_path / "llama")
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page").write_text("<html>not found</html>")
    (tmp_path / "empty").write_bytes(b"")
    flipped = bytearray(whole)
    flipped[-1] ^= 0x10
    (tmp_path / "flipped").write_bytes(flipped)
    for name in ("truncated", "page", "empty", "foreign"):
        with pytest.raises(ValueError, match="is not a saved edit") as caught:
            ledger.import_edit(tmp_path / name, force=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"digest differs|not finite"):
        ledger.import_edit(tmp_path / "flipped")
    with pytest.raises(ValueError, match="no parameter"):
        ledger.import_edit(tmp_path / "llama", force=True)
    with pytest.raises(FileNotFoundError, match="no file"):
        ledger.import_edit(tmp_path / "absent")
    assert state(folder) == before
    assert ledger.edits() == (edits[0],)
    assert Ledger(model, folder).edits()[0].digest == edits[0].digest


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "engram-ledger-9"}', '{"format": "engram-ledger-1", "branches": 3}']
)
def test_a_broken_ledger_is_told(model: LanguageModel, tmp_path: Path, text: str) -> None:
    (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold a ledger that can be read"):
        Ledger(model, tmp_path)
    assert (tmp_path / "ledger.json").read_text() == text


def test_an_edit_file_that_was_swapped_is_told(model: LanguageModel, edits: list[Edit], tmp_path: Path) -> None:
    ledger = Ledger(model, tmp_path)
    ledger.add(edits[0])
    save_edit(edits[2], tmp_path / "edits" / f"{edits[0].digest}.safetensors")
    with pytest.raises(ValueError, match="holds another edit"):
        Ledger(model, tmp_path)
    (tmp_path / "edits" / f"{edits[0].digest}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no file"):
        Ledger(model, tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_merged_folder_loads_with_plain_transformers_and_answers_the_same(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    ledger = Ledger(model)
    ledger.add(made(model, by_hand.low_rank(model, 0, 0)))
    ledger.add(made(model, by_hand.dense(model, 2, 1)))
    folder = tmp_path / "merged"
    ledger.export_model(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = plain(input_ids=IDS).logits
    assert torch.equal(logits, ledger.view().logits(IDS))
    assert not torch.equal(logits, model.logits(IDS))
    assert AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"] == model.encode(PROMPT)
    assert load_model(folder).generate([PROMPT], 6) == ledger.view().generate([PROMPT], 6)
    assert [each["method"] for each in json.loads((folder / "edits.json").read_text())["edits"]] == ["rome", "rome"]
    with pytest.raises(FileExistsError, match="not empty"):
        ledger.export_model(folder)
    with pytest.raises(FileNotFoundError, match="no folder"):
        ledger.export_model(tmp_path / "a" / "b")


def test_what_no_weight_can_hold_is_not_merged(model: LanguageModel, edits: list[Edit], tmp_path: Path) -> None:
    ledger = Ledger(model)
    ledger.add(edits[1])
    with pytest.raises(ValueError, match=r"cannot be merged into the weights \(it is a CodebookOp\)"):
        ledger.export_model(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
