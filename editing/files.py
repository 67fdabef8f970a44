"""A saved edit: one safetensors file, the factors as tensors and everything else as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from editing.edit import Diagnostic, Edit, LossStep, WeightDelta
from editing.registry import get_method
from facts import EditRequest, Fact, Probe

FORMAT = "engram-edit-1"


def save_edit(edit: Edit, path: Path) -> None:
    """Write an edit.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; make it first")
    tensors: dict[str, torch.Tensor] = {}
    for index, delta in enumerate(edit.deltas):
        tensors[f"{index}.rows"] = delta.rows.detach().cpu().contiguous()
        tensors[f"{index}.cols"] = delta.cols.detach().cpu().contiguous()
    description = {
        "method": edit.method,
        "config": dataclasses.asdict(edit.config),
        "requests": [dataclasses.asdict(request) for request in edit.requests],
        "names": [delta.name for delta in edit.deltas],
        "model_revision": edit.model_revision,
        "diagnostics": [dataclasses.asdict(diagnostic) for diagnostic in edit.diagnostics],
        "losses": [dataclasses.asdict(step) for step in edit.losses],
        "seconds": dict(edit.seconds),
        "digest": edit.digest,
    }
    save_file(tensors, str(path), {"format": FORMAT, "edit": json.dumps(description, ensure_ascii=False)})


def load_edit(path: Path) -> Edit:
    """Read an edit and check that it is what was written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a saved edit, or was changed since.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the path of a saved edit")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, expected {FORMAT!r}")
        description = json.loads(metadata["edit"])
        edit = _edit(description, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a saved edit: {error}") from error
    if edit.digest != description["digest"]:
        raise ValueError(f"{str(path)!r} does not hold what was saved: its digest differs; save the edit again")
    return edit


def _edit(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Edit:
    return Edit(
        method=description["method"],
        requests=tuple(_request(request) for request in description["requests"]),
        config=get_method(description["method"]).config_type(**description["config"]),
        deltas=tuple(
            WeightDelta(name, tensors[f"{index}.rows"], tensors[f"{index}.cols"])
            for index, name in enumerate(description["names"])
        ),
        model_revision=description["model_revision"],
        diagnostics=tuple(Diagnostic(**diagnostic) for diagnostic in description["diagnostics"]),
        losses=tuple(LossStep(**step) for step in description["losses"]),
        seconds=description["seconds"],
    )


def _request(description: dict[str, Any]) -> EditRequest:
    probes = tuple(
        Probe(**(probe | {"bridge": tuple((prompt, answer) for prompt, answer in probe["bridge"])}))
        for probe in description["probes"]
    )
    return EditRequest(
        fact=Fact(**description["fact"]),
        target_new=description["target_new"],
        probes=probes,
        generation_prompts=tuple(description["generation_prompts"]),
    )
