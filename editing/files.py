"""A saved edit: one safetensors file with the tensors, and everything else as JSON in its header.

Format 3 holds a sha256 over all of it.  Format 2, which had one over the operations alone, is still read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from editing.configs import make_config
from editing.edit import Diagnostic, Edit, LossStep
from editing.ops import plain_of, rebuilt, tensors_of
from editing.registry import get_method
from facts.records import as_tuples, read_request, read_value, request_record
from facts.regular import check_regular
from models.views import tensors_digest

FORMAT, OLD_FORMAT = "engram-edit-3", "engram-edit-2"
CHANGED = "does not hold what was saved: its digest differs; save the edit again"


def save_edit(edit: Edit, path: Path) -> None:
    """Write an edit; the file appears whole or not at all.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; make it first")
    tensors: dict[str, torch.Tensor] = {}
    for index, op in enumerate(edit.ops):
        tensors |= {f"ops.{index}.{name}": tensor for name, tensor in tensors_of(op).items()}
    for name, keys in edit.keys.items():
        tensors[f"keys.{name}"] = keys.detach().cpu().contiguous()
    description = {
        "method": edit.method,
        "config": dataclasses.asdict(edit.config),
        "requests": [request_record(request) for request in edit.requests],
        "ops": [plain_of(op) for op in edit.ops],
        "model_revision": edit.model_revision,
        "diagnostics": [dataclasses.asdict(diagnostic) for diagnostic in edit.diagnostics],
        "losses": [dataclasses.asdict(step) for step in edit.losses],
        "seconds": dict(edit.seconds),
        "parents": edit.parents,
        "digest": edit.digest,
    }
    text = json.dumps(description, ensure_ascii=False)
    scratch = path.with_name(f"{path.name}.part")
    try:
        scratch.write_bytes(save(tensors, {"format": FORMAT, "edit": text, "sha256": _digest(text, tensors)}))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load_edit(path: Path) -> Edit:
    """Read an edit and check its digest.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a saved edit, or was changed since.
    """
    instead = "give the path of a saved edit"
    check_regular(path, instead)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; {instead}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.get("format") not in (FORMAT, OLD_FORMAT):
            raise ValueError(f"its format is {metadata.get('format')!r}, expected {FORMAT!r} or {OLD_FORMAT!r}")
        whole = metadata["format"] == OLD_FORMAT or metadata["sha256"] == _digest(metadata["edit"], tensors)
        description = json.loads(metadata["edit"])
        edit = _edit(description, tensors)
        whole = whole and edit.digest == description["digest"]
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a saved edit ({error}); choose a file that Engram saved") from error
    if not whole:
        raise ValueError(f"{str(path)!r} {CHANGED}")
    return edit


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over the description as it is written and every tensor."""
    words = f"{text}|{tensors_digest(sorted(tensors.items()))}"
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()


def _edit(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Edit:
    config_type = get_method(description["method"]).config_type
    earlier = {
        knob.name: knob.metadata["earlier"] for knob in dataclasses.fields(config_type) if "earlier" in knob.metadata
    }
    values = earlier | {name: as_tuples(value) for name, value in description["config"].items()}
    if not description["requests"]:
        raise ValueError("it holds no request; save the edit again")
    return Edit(
        method=description["method"],
        requests=tuple(read_request(request) for request in description["requests"]),
        config=make_config(config_type, values),
        ops=tuple(rebuilt(plain, _under(tensors, f"ops.{index}.")) for index, plain in enumerate(description["ops"])),
        model_revision=read_value(str, description["model_revision"], "model_revision"),
        diagnostics=read_value(tuple[Diagnostic, ...], description["diagnostics"], "diagnostics"),
        losses=read_value(tuple[LossStep, ...], description["losses"], "losses"),
        seconds=read_value(Mapping[str, float], description["seconds"], "seconds"),
        keys=_under(tensors, "keys."),
        parents=read_value(tuple[str, ...], description["parents"], "parents"),
    )


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
