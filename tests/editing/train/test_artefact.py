"""Artefacts: whole, of the right method and model, or refused in one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editing.train import artefact
from editing.train.artefact import MANIFEST, TENSORS, Artefact, artefact_for, load_artefact, save_artefact

WRITTEN = Artefact("mend", "a" * 64, {"rank": 2}, {"score": 0.5}, {"w": torch.tensor([1.0, 2.0])})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    saved = save_artefact(WRITTEN, tmp_path / "mend")
    read = load_artefact(tmp_path / "mend", "mend", "a" * 64)
    assert read.digest == saved.digest
    assert len(read.digest) == 64
    assert (read.settings, read.validation) == (WRITTEN.settings, WRITTEN.validation)
    assert torch.equal(read.tensors["w"], WRITTEN.tensors["w"])
    other = save_artefact(Artefact("mend", "a" * 64, {"rank": 2}, {"score": 0.5}, {"w": torch.ones(2)}), tmp_path / "b")
    assert other.digest != saved.digest


def test_what_is_not_there_or_not_for_this_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no trained mend editor in .*; train one with `python -m editing.tr"):
        load_artefact(tmp_path, "mend", "a" * 64)
    save_artefact(WRITTEN, tmp_path)
    with pytest.raises(
        ValueError, match=r"was trained for weights aaaaaaaaaaaa, but the model has bbbbbbbbbbbb; train"
    ):
        load_artefact(tmp_path, "mend", "b" * 64)
    with pytest.raises(ValueError, match="is one of 'mend', not of 'ke'"):
        load_artefact(tmp_path, "ke", "a" * 64)


def test_each_model_finds_its_own_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact, "BUNDLED", tmp_path)
    for name, revision in (("reference", "a" * 64), ("small", "b" * 64)):
        save_artefact(replace(WRITTEN, base_revision=revision), tmp_path / name / "mend")
    assert artefact_for("", "mend", "b" * 64).base_revision == "b" * 64
    assert artefact_for(str(tmp_path / "small" / "mend"), "mend", "b" * 64).base_revision == "b" * 64
    with pytest.raises(FileNotFoundError, match="no mend editor comes with Engram for this model; train one with"):
        artefact_for("", "mend", "c" * 64)


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    save_artefact(WRITTEN, tmp_path)
    content = bytearray((tmp_path / TENSORS).read_bytes())
    content[-1] ^= 1
    (tmp_path / TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its digest differs"):
        load_artefact(tmp_path, "mend", "a" * 64)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(ValueError, match="is damaged"):
        load_artefact(tmp_path, "mend", "a" * 64)
    for text in ("{", "{}", json.dumps({"format": "other"})):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match="is not an editor's manifest"):
            load_artefact(tmp_path, "mend", "a" * 64)
