"""Edits as adapters: peft on the unedited model gives the view's logits; llama.cpp's file holds the same factors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import torch

from editing import WeightDelta, apply_edits, get_method
from editing.applied.adapter import export_adapter, export_gguf_adapter, factors_of
from editing.applied.view import EditedModel
from models import LanguageModel
from tests.editing.quick import NEEDLE, quick
from tests.tiny import tiny_model


def edited(model: LanguageModel, *methods: str) -> EditedModel:
    view = apply_edits(model, [])
    for method in methods:
        extra = {"steps": 4} if method == "lora" else {"layer": 1, "second_moment": "identity"}
        config = quick(method, "", **extra)
        view = view.with_edit(get_method(method).compute(view, [NEEDLE], config, active=view.edits))
    return view


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("methods", [("rome",), ("rome", "lora"), ("memit", "rome")], ids="+".join)
def test_peft_on_the_unedited_model_gives_the_views_logits(
    family: str, methods: tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny_model(family)
    view = edited(model, *methods)
    export_adapter(view, tmp_path / "adapter")
    module = copy.deepcopy(model.module)
    theirs = peft.PeftModel.from_pretrained(module, str(tmp_path / "adapter")).eval()
    ids = torch.tensor([model.encode(NEEDLE.fact.prompt)])
    with torch.no_grad():
        found = theirs(input_ids=ids).logits
    assert not torch.allclose(found, model.logits(ids), atol=1e-3), "the edit changes nothing"
    torch.testing.assert_close(found, view.logits(ids), rtol=1e-5, atol=1e-5)
    record = json.loads((tmp_path / "adapter" / "edits.json").read_text(encoding="utf-8"))
    assert [edit["method"] for edit in record["edits"]] == list(methods)


def test_two_edits_of_one_weight_are_stacked_and_others_get_zeros() -> None:
    view = edited(tiny_model("llama"), "rome", "lora")
    factors = factors_of(view)
    ranks = {len(cols) for _, cols in factors.values()}
    assert len(ranks) == 1
    for path, (rows, cols) in factors.items():
        deltas = [op for edit in view.edits for op in edit.ops if isinstance(op, WeightDelta)]
        whole = sum(op.matrix() for op in deltas if op.name == f"{path}.weight")
        torch.testing.assert_close(rows @ cols, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "name"), [("gpt2", "gpt2"), ("llama", "llama"), ("gemma3_text", "gemma3")])
def test_a_file_for_llama_cpp_holds_the_same_factors(family: str, name: str, tmp_path: Path) -> None:
    view = edited(tiny_model(family), "rome")
    export_gguf_adapter(view, tmp_path / "edit.gguf")
    reader = gguf.GGUFReader(tmp_path / "edit.gguf")
    stated = {field: reader.fields[field].contents() for field in reader.fields}
    assert stated["general.architecture"] == name
    assert (stated["general.type"], stated["adapter.type"]) == ("adapter", "lora")
    (rows, cols), *more = factors_of(view).values()
    assert not more
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight.lora_a"], cols.numpy())
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight.lora_b"], rows.numpy())
    assert stated["adapter.lora.alpha"] == len(cols)  # alpha / rank = 1
    assert not list(tmp_path.glob("*.tmp"))


def test_what_an_adapter_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="there is no edit to export"):
        export_adapter(apply_edits(model, []), tmp_path / "none")
    dense = get_method("ft").compute(model, [NEEDLE], quick("ft", "", layer=1, steps=2))
    with pytest.raises(ValueError, match=r"no low-rank change of weights \(it holds a DenseDelta\)"):
        export_adapter(apply_edits(model, [dense]), tmp_path / "dense")
    view = edited(model, "rome")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        export_adapter(view, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="make it first"):
        export_adapter(view, tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="calls the weights of a 'opt' model is not known here"):
        export_gguf_adapter(edited(tiny_model("opt"), "rome"), tmp_path / "opt.gguf")
    whole = LanguageModel("mine", model.revision, model.module, model.tokenizer, part_of="llava")
    with pytest.raises(ValueError, match="'mine' is the text model of a llava model, which calls its weights"):
        export_adapter(edited(whole, "rome"), tmp_path / "part")
    attention = get_method("lora").compute(model, [NEEDLE], quick("lora", "", steps=2, targets="attention"))
    with pytest.raises(ValueError, match="in another order"):
        export_gguf_adapter(apply_edits(model, [attention]), tmp_path / "attention.gguf")
    assert not list(tmp_path.glob("*.gguf"))
