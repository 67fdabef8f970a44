"""The default edit behind a post-norm, on Gemma 3 270M where it was fetched: it takes, and leaves the model whole.

In units of the residual (4,527 at layer 5, where the MLP's output has 5.2) the search jumped to a value of 7,993, with
p(new) .0035 and a change of 124 times the weight.
"""

from __future__ import annotations

import pytest

from app import workflow
from editing import apply_edits
from models import LanguageModel, load_model
from models.sources import catalogue

PROMPT = "The Space Needle is located in the city of"


@pytest.fixture(scope="module")
def gemma() -> LanguageModel:
    if not catalogue.is_fetched("gemma-3-270m"):
        pytest.skip("Gemma was not fetched: `python -m models get gemma-3-270m` asks to accept its terms")
    return load_model("gemma-3-270m")


def test_the_default_edit_takes_and_leaves_other_places_alone(gemma: LanguageModel) -> None:
    request = workflow.request_for(gemma, PROMPT, "Space Needle", "Seattle", "Paris")
    # without the second moment, which takes half a minute
    edit = workflow.edit(gemma, request, "r-rome", {"layer": 3, "second_moment": "identity"})
    numbers = {diagnostic.name: diagnostic.value for diagnostic in edit.diagnostics}
    assert numbers["p(new) before"] < 1e-3
    assert numbers["p(new) after"] > 0.9
    assert numbers["relative change"] < 0.1
    edited = apply_edits(gemma, [edit])
    others = ["The Colosseum is located in the city of", "The capital of Japan is"]
    assert edited.generate([PROMPT], 1) == [" Paris"]
    assert edited.generate(others, 1) == gemma.generate(others, 1)
