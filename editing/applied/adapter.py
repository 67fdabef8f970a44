"""Edits of weights as a low-rank adapter beside the unedited model: a `peft` folder, or a file for llama.cpp.

An edit W + sum_i r_i c_i^T is a LoRA adapter (Hu et al. 2021, arXiv:2106.09685, section 4.1) with B = [r_1 r_2 ...],
A = [c_1 c_2 ...]^T and alpha = r, so that nothing is scaled.  Weights of lower rank than others get zeros.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from editing.applied.export import RECORD, described
from editing.applied.view import EditedModel
from editing.ops import WeightDelta
from models import as_out_in

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Path of a layer -> (B [d_out, rank], A [rank, d_in]), float32, of one rank for all."""


def factors_of(view: EditedModel) -> Factors:
    """The changes of all edits of a view.

    Raises:
        ValueError: if it has no edit, or one that is not a low-rank change of weights.
    """
    if not view.edits:
        raise ValueError("there is no edit to export; apply one first")
    deltas = defaultdict[str, list[WeightDelta]](list)
    for edit in view.edits:
        for op in edit.ops:
            if not isinstance(op, WeightDelta):
                raise ValueError(
                    f"the {edit.method} edit of {edit.requests[0].fact.prompt!r} is no low-rank change of weights "
                    f"(it holds a {type(op).__name__}), which an adapter cannot hold; leave it out, or export the edit"
                )
            deltas[op.name.removesuffix(".weight")].append(op)
    rank = max(sum(delta.rows.shape[1] for delta in some) for some in deltas.values())
    return {path: _stacked(some, rank) for path, some in deltas.items()}


def _stacked(deltas: list[WeightDelta], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.cat([delta.rows for delta in deltas], dim=1).float().cpu()
    cols = torch.cat([delta.cols for delta in deltas]).float().cpu()
    lacking = rank - len(cols)
    return (
        torch.nn.functional.pad(rows, (0, lacking)).contiguous(),
        torch.nn.functional.pad(cols, (0, 0, 0, lacking)).contiguous(),
    )


def export_adapter(view: EditedModel, folder: Path) -> None:
    """Write a view's edits as a LoRA folder for `peft.PeftModel.from_pretrained`; it appears whole or not at all.

    On the unedited model in float32 it gives the view's logits up to rounding.

    Raises:
        ValueError: see `factors_of`; and for the text model of a model that sees pictures too.
        FileExistsError: if there is something in the folder already.
        FileNotFoundError: if its parent does not exist.
    """
    factors = factors_of(view)
    if view.base.part_of:
        raise ValueError(
            f"{view.base.name!r} is the text model of a {view.base.part_of} model, which calls its weights otherwise, "
            "so an adapter of one would not fit the other; export the edited model"
        )
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder.parent)!r}; make it first")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty; give the path of a new folder")
    rank = len(next(iter(factors.values()))[1])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": view.base.name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _stored_in_out(view, next(iter(factors))),
        "target_modules": sorted(factors),
    }
    tensors: dict[str, torch.Tensor] = {}
    for path, (rows, cols) in factors.items():
        tensors |= {f"base_model.model.{path}.lora_B.weight": rows, f"base_model.model.{path}.lora_A.weight": cols}
    record = {"base": view.base.revision, "edits": [described(edit) for edit in view.edits]}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        save_file(tensors, whole / "adapter_model.safetensors", {"format": "pt"})
        (whole / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (whole / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(whole, folder)


def _stored_in_out(view: EditedModel, path: str) -> bool:
    """Whether a layer stores its weight [d_in, d_out], as all edited layers of GPT-2 do."""
    shape = torch.empty(2, 1)
    return as_out_in(view.submodules[path], shape).shape != shape.shape


def export_gguf_adapter(view: EditedModel, path: Path) -> None:
    """Write a view's edits as an adapter for `llama-cli --lora`, beside the unedited model's own GGUF file.

    Raises:
        ValueError: see `factors_of` and `models.sources.gguf.adapter.write_adapter`.
        FileExistsError: if the file is there already.
        FileNotFoundError: if its folder does not exist.
    """
    from models.sources.gguf.adapter import write_adapter

    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; make it first")
    if path.exists():
        raise FileExistsError(f"{str(path)!r} is there already; give the path of a new file")
    factors = {name: (rows.numpy(), cols.numpy()) for name, (rows, cols) in factors_of(view).items()}
    write_adapter(path, view.architecture.family, view.n_layers, factors)
