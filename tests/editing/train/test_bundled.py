"""The bundled editors: whole, small, for the bundled model only, and they edit facts of subjects they never saw."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from editing import apply_edits, get_method
from editing.edit import Edit
from editing.ops import RouteOp
from editing.train import artefact as artefacts
from editing.train.artefact import LOG, MANIFEST, TENSORS, load_artefact
from editing.train.episodes import split_of
from facts import EditRequest
from facts.atlas import AtlasFact, load_atlas
from models import LanguageModel, load_model
from tests.tiny import tiny_model

pytestmark = pytest.mark.reference

KINDS = ("mend", "ke", "serac")
BUNDLED = artefacts.BUNDLED / "reference"
N = 6


@cache
def reference() -> LanguageModel:
    return load_model("reference")


@cache
def held_out() -> tuple[AtlasFact, ...]:
    """Facts of test subjects that the model knows, each of another relation and subject."""
    atlas, found = load_atlas(), dict[str, AtlasFact]()
    for fact in atlas.facts:
        taken = fact.relation in found or fact.subject in {other.subject for other in found.values()}
        if taken or fact.contains_answer or split_of(fact.subject) != "test":
            continue
        if says(reference(), atlas.as_fact(fact).prompt, fact.object):
            found[fact.relation] = fact
        if len(found) == N:
            break
    return tuple(found.values())


def says(model: LanguageModel, prompt: str, answer: str) -> bool:
    n_tokens = len(model.tokenize(f" {answer}", special_tokens=False))
    return model.generate([prompt], n_tokens)[0].strip() == answer


def edited(kind: str, fact: AtlasFact) -> tuple[EditRequest, Edit]:
    atlas, method = load_atlas(), get_method(kind)
    request = EditRequest(atlas.as_fact(fact), atlas.counterfactual(fact))
    return request, method.compute(reference(), [request], method.config_type())


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in artefacts.BUNDLED.glob(f"*/*/{MANIFEST}")),
    ids=lambda folder: f"{folder.parent.name}-{folder.name}",
)
def test_an_editor_that_comes_along_is_whole_and_small(folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    artefact = load_artefact(folder, folder.name, json.loads(content)["base_revision"])
    assert artefact.digest == hashlib.sha256(content).hexdigest()
    assert (folder / TENSORS).stat().st_size <= 15 * 2**20
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    (kept,) = (line for line in lines if line["step"] == artefact.validation["step"])
    assert kept["kept"]
    assert kept["validation"]["score"] == pytest.approx(artefact.validation["score"], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_edits_facts_of_subjects_it_never_saw(kind: str) -> None:
    """And an edit leaves the other held-out facts alone."""
    digest = reference().weights_digest()
    atlas, right, kept = load_atlas(), 0, []
    for fact in held_out():
        request, edit = edited(kind, fact)
        view = apply_edits(reference(), [edit])
        right += says(view, request.fact.prompt, request.target_new)
        kept += [says(view, atlas.as_fact(other).prompt, other.object) for other in held_out() if other != fact]
    assert right >= N / 2
    assert sum(kept) >= len(kept) - 2
    assert reference().weights_digest() == digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_editor_and_another_model_are_refused(kind: str, tmp_path: Path) -> None:
    shutil.copytree(BUNDLED / kind, tmp_path / kind)
    content = bytearray((tmp_path / kind / TENSORS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / kind / TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its digest differs"):
        load_artefact(tmp_path / kind, kind, reference().revision)
    method = get_method(kind)
    request = EditRequest(load_atlas().as_fact(held_out()[0]), "Oslo")
    with pytest.raises(FileNotFoundError, match=r"no .* editor comes with Engram for this model; train one with"):
        method.compute(tiny_model("gpt2"), [request], method.config_type())


def test_an_edit_names_its_editor_by_digest() -> None:
    _, edit = edited("serac", held_out()[0])
    (op,) = edit.ops
    assert isinstance(op, RouteOp)
    assert op.editor == load_artefact(BUNDLED / "serac", "serac", reference().revision).digest
