"""Export an edited model as a folder for plain transformers, with the changes merged into the weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from editing.applied.view import EditedModel
from editing.edit import Edit

RECORD = "edits.json"
"""The file beside the weights that lists the edits: method, digest, prompt and new answer."""


def unmergeable(edit: Edit) -> tuple[str, ...]:
    """The kinds of operation in an edit that cannot be merged into weights."""
    return tuple(dict.fromkeys(type(op).__name__ for op in edit.ops if op not in edit.weights))


def export_model(view: EditedModel, folder: Path) -> None:
    """Write weights, config and tokenizer of a view; the folder appears complete or not at all.

    Writes the weights that the view computes with, so the exported model gives the same logits, bit for bit.

    Raises:
        ValueError: if an edit does not change weights.
        FileExistsError: if there is something in the folder already.
        FileNotFoundError: if its parent does not exist.
    """
    for edit in view.edits:
        kinds = unmergeable(edit)
        if kinds:
            raise ValueError(
                f"the {edit.method} edit of {edit.requests[0].fact.prompt!r} cannot be merged into the weights "
                f"(it is a {', '.join(kinds)}); leave it out, or export the edit itself"
            )
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder.parent)!r}; make it first")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty; give the path of a new folder")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / folder.name
        view.module.save_pretrained(whole)
        view.tokenizer.save_pretrained(whole)
        record = {"base": view.base.revision, "edits": [described(edit) for edit in view.edits]}
        (whole / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(whole, folder)


def described(edit: Edit) -> dict[str, object]:
    """An edit as the record lists it."""
    requests = [{"prompt": request.fact.prompt, "target_new": request.target_new} for request in edit.requests]
    return {"method": edit.method, "digest": edit.digest, "requests": requests}
