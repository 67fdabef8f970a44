"""GRACE and WISE on the bundled model: the answer is there, and other facts keep theirs."""

from __future__ import annotations

import pytest
import torch

from editing import apply_edits
from editing.methods.grace import GraceConfig, GraceMethod
from editing.methods.wise import WiseConfig, WiseMethod
from facts import EditRequest
from facts.atlas import load_atlas
from facts.probes import edit_request
from models import LanguageModel, load_model

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model("reference")


@pytest.fixture(scope="module")
def request_known(model: LanguageModel) -> EditRequest:
    """A fact the model knows, with neighbours."""
    atlas = load_atlas()
    for row in atlas.facts:
        fact = atlas.as_fact(row)
        known = model.generate([fact.prompt], 5)[0].strip().startswith(row.object)
        if known and not row.contains_answer and len(atlas.sharing(row.relation, row.object)) > 3:
            return edit_request(atlas, fact, atlas.counterfactual(row), max_neighbors=3)
    raise AssertionError("the bundled model knows no fact")


def neighbors(request: EditRequest) -> list[str]:
    return [probe.prompt for probe in request.of_kind("neighborhood")]


def test_grace_answers_its_prompt_and_leaves_neighbours_their_bits(
    model: LanguageModel, request_known: EditRequest
) -> None:
    before = model.weights_digest()
    edit = GraceMethod().compute(model, [request_known], GraceConfig())
    view = apply_edits(model, [edit])
    assert edit.diagnostic("p(new) before").value < 0.1
    assert edit.diagnostic("p(new) after").value > 0.9
    assert view.generate([request_known.fact.prompt], 6)[0].strip().startswith(request_known.target_new)
    assert view.generate(neighbors(request_known), 6) == model.generate(neighbors(request_known), 6)
    far = torch.tensor([model.encode("Question: What is the capital of")])
    assert torch.equal(view.logits(far), model.logits(far))
    assert model.weights_digest() == before


def test_grace_tells_answers_apart_that_begin_alike(model: LanguageModel) -> None:
    """The second token is steered by attention alone: "United States" must not come out for "United Kingdom"."""
    atlas = load_atlas()
    rows = [row for row in atlas.facts if row.object == "Italy" and "United Kingdom" in atlas.range_of(row.relation)]
    fact = atlas.as_fact(rows[0])
    for answer in ("United Kingdom", "United States", "South Korea", "South Africa"):
        if answer in atlas.range_of(fact.relation):
            edit = GraceMethod().compute(model, [EditRequest(fact, answer)], GraceConfig())
            said = apply_edits(model, [edit]).generate([fact.prompt], 6)[0]
            assert said.strip().startswith(answer)


def test_wise_answers_its_prompt_and_keeps_most_neighbours(model: LanguageModel, request_known: EditRequest) -> None:
    edit = WiseMethod().compute(model, [request_known], WiseConfig(prefixes=2, steps=50))
    view = apply_edits(model, [edit])
    assert edit.diagnostic("p(new) after").value > 0.5 > 5 * edit.diagnostic("p(new) before").value
    asked = neighbors(request_known)
    kept = [a == b for a, b in zip(view.generate(asked, 6), model.generate(asked, 6), strict=True)]
    assert sum(kept) >= 2
